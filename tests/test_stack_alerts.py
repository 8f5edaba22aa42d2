"""On the real stack: what a burst is told as."""

import re

import pytest
from conftest import Running, wait_until

from dropflow.demo import body_of, subject_of
from dropflow.ledger import Ledger
from dropflow.samples import churn_csv

pytestmark = pytest.mark.stack

GOOD = churn_csv(rows=30, seed=31)
UNREADABLE = GOOD.replace(b"Balance", b"Saldo", 1)
NEGATIVE = re.sub(rb"(?m)^(1,(?:[^,]*,){6})\d+", rb"\1-1", churn_csv(rows=10, seed=31))


def test_a_burst_of_500_with_7_bad_files_is_two_messages_and_one_digest(running: Running) -> None:
    bad = {7: UNREADABLE, 99: UNREADABLE, 180: UNREADABLE, 250: UNREADABLE}
    bad |= {301: NEGATIVE, 402: NEGATIVE, 499: NEGATIVE}
    for number in range(500):
        running.store.put("raw", f"churn/burst/{number}.csv", bad.get(number, GOOD), "text/csv")
    ledger = Ledger(running.settings.ledger)

    def settled() -> bool:
        fates = [e.fate for e in ledger.search(dataset="churn") if e.ref.key.startswith("churn/burst/")]
        return fates.count("processed") == 493 and fates.count("rejected") == 7

    try:
        wait_until(settled, 240, "every fate")
        wait_until(lambda: not ledger.notices.untold(1), 60, "all that is to be told")
    finally:
        ledger.close()

    def told(title: str, of: str) -> list[str]:
        mails = [mail for mail in running.mailbox.messages if f"churn/burst/{of}" in body_of(mail)]
        return [subject_of(mail) for mail in mails if subject_of(mail).startswith(title)]

    wait_until(lambda: told("Ready", ""), 60, "the digest")
    assert len(told("Ready", "")) == 1
    causes = [told("Rejected", "7.csv"), told("Rejected", "301.csv")]
    for subjects in causes:
        assert 1 <= len(subjects) <= 2, "the first at once, then what follows, counted"
    everything = [s for s in map(subject_of, running.mailbox.messages) if s.startswith("Rejected: churn · ")]
    assert len(told("Rejected", "")) <= 4, everything

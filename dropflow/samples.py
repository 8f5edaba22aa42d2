"""The sample that the demo drops: bank customers with the shape and the gaps of the real file."""

import csv
import io
import random

HEADER = [
    *("RowNumber", "CustomerId", "Surname", "CreditScore", "Geography", "Gender", "Age", "Tenure"),
    *("Balance", "NumOfProducts", "HasCrCard", "IsActiveMember", "EstimatedSalary", "Exited"),
]
SURNAMES = ["Smith", "Martin", "García", "Müller", "Rossi", "Chu", "Onio", "Hill", "O'Neill", "Nwosu"]
COUNTRIES, SHARES = ["France", "Germany", "Spain"], [50, 25, 25]
MISSING_AGE, MISSING_GENDER = 0.15, 0.10


def churn_csv(rows: int = 10_000, seed: int = 42) -> bytes:
    """A churn CSV of `rows` rows; the same seed gives the same bytes on every Python version."""
    rng = random.Random(seed)
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(HEADER)
    for number in range(1, rows + 1):
        writer.writerow(_customer(number, rng))
    return text.getvalue().encode()


def _customer(number: int, rng: random.Random) -> list[object]:
    age = min(92, max(18, round(rng.gauss(38.9, 10.5))))
    active = int(rng.random() < 0.515)
    leaves = 0.08 + 0.008 * max(0, age - 35) + (0.0 if active else 0.1)
    return [
        number,
        15_565_701 + rng.randrange(250_000),
        rng.choice(SURNAMES),
        min(850, max(350, round(rng.gauss(650, 97)))),
        rng.choices(COUNTRIES, SHARES)[0],
        "" if rng.random() < MISSING_GENDER else rng.choice(["Female", "Male"]),
        "" if rng.random() < MISSING_AGE else age,
        rng.randrange(11),
        0 if rng.random() < 0.36 else round(rng.uniform(20_000, 220_000), 2),
        rng.choices([1, 2, 3, 4], [51, 46, 2, 1])[0],
        int(rng.random() < 0.705),
        active,
        round(rng.uniform(12, 200_000), 2),
        int(rng.random() < leaves),
    ]

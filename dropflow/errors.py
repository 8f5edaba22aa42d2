"""Every error Dropflow raises on purpose. Transient ones may be tried again; permanent ones never."""


class DropflowError(Exception):
    """Base of all errors with a message meant for the user."""


class TransientError(DropflowError):
    """May pass by itself: network, timeout, an overloaded or restarting server."""


class PermanentError(DropflowError):
    """Stays until a person changes something."""


class AccessError(PermanentError):
    """A server is there, and we do not get in: no fault of the object that is being worked on."""


class UntrustedError(AccessError):
    """A server's certificate is not accepted."""


class SettingsError(PermanentError):
    """A setting is missing or wrong."""


class DatasetError(PermanentError):
    """A dataset file is wrong."""


class AutomationError(PermanentError):
    """An automation file is wrong."""


class RejectedError(PermanentError):
    """An object's content cannot be prepared: the reason tells its owner what to mend."""


class SupersededError(PermanentError):
    """The object was overwritten meanwhile: its successor gets a run of its own."""


class ObjectMissingError(PermanentError):
    """The object is not in the bucket (any more)."""


class AlreadyExistsError(PermanentError):
    """A conditional PUT lost: another writer created the object first."""


class ReceiptError(PermanentError):
    """A stored receipt cannot be read."""


class NotificationFormatError(PermanentError):
    """A notification body or line is not what any supported store sends."""


class LedgerError(PermanentError):
    """The ledger cannot be opened, or is not where it was."""


class BackupError(PermanentError):
    """A backup cannot be written, read, or brought back here."""


class EventRefusedError(PermanentError):
    """Prefect does not take this very event; others may be fine."""

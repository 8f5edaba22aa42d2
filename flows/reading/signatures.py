"""The bytes that files of each format begin with."""

GZIP, ZSTD, ZIP, EMPTY_ZIP = b"\x1f\x8b", b"\x28\xb5\x2f\xfd", b"PK\x03\x04", b"PK\x05\x06"
PARQUET, PARQUET_ENCRYPTED = b"PAR1", b"PARE"

MAGIC = {
    b"\x89PNG": "a PNG image",
    b"\xff\xd8\xff": "a JPEG image",
    b"%PDF": "a PDF document",
    b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1": "an old Excel workbook (.xls), or one with a password",
    b"\xfd7zXZ\0": "an xz archive",
    b"7z\xbc\xaf\x27\x1c": "a 7-Zip archive",
    b"BZh91AY&SY": "a bzip2 archive",
    b"ARROW1\0\0": "an Arrow (Feather) file",
    PARQUET: "a Parquet file",
    PARQUET_ENCRYPTED: "an encrypted Parquet file",
    ZIP: "an Excel workbook",
}

WIDE = (b"\xff\xfe", b"\xfe\xff", b"\0\0\xfe\xff")
"""Marks of encodings whose characters are several bytes each."""
NO_TEXT = (GZIP, ZSTD, ZIP, PARQUET, PARQUET_ENCRYPTED, *MAGIC)

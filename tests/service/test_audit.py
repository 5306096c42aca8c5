"""The audit log: every edit of it is found."""

import random
from contextlib import suppress

import pytest
from sqlalchemy import delete, insert, select, update
from sqlalchemy.exc import IntegrityError

from mithridate.errors import ServiceError, UsageError
from mithridate.service.audit_log import AuditLog
from mithridate.service.database.tables import AUDIT, AUDIT_HEAD
from tests.service.conftest import upload


@pytest.fixture
def filled(parts):
    with parts.database.write() as connection:
        for number in range(40):
            parts.audit.add(connection, f"key_{number}", "job.create", f"ftjob-{number}", sha256=f"{number:064x}")
    assert parts.audit.verify(parts.database) == 40
    return parts


def byte_changed(rows, draw):
    row = draw.choice(rows)
    column = draw.choice(["actor", "action", "target", "detail", "hash", "at", "seq"])
    value = row[column]
    if isinstance(value, str):
        place = draw.randrange(len(value))
        other = draw.choice([char for char in "0123456789abcdefXYZ" if char != value[place]])
        row[column] = value[:place] + other + value[place + 1 :]
    else:
        row[column] = value + draw.choice([-1, 1, 1000]) * (1 if column == "at" else 100)


def deleted(rows, draw):
    rows.pop(draw.randrange(len(rows)))


def moved(rows, draw):
    one, other = draw.sample(range(len(rows)), 2)
    rows[one]["seq"], rows[other]["seq"] = rows[other]["seq"], rows[one]["seq"]


def forged(rows, draw):
    row = dict(draw.choice(rows))
    row["seq"] = len(rows) + 1
    rows.append(row)


def cut(rows, draw):
    del rows[draw.randrange(len(rows)) :]


def test_a_thousand_edits_are_all_found(filled):
    draw = random.Random(1)
    with filled.database.read() as connection:
        rows = [dict(row._mapping) for row in connection.execute(select(AUDIT).order_by(AUDIT.c.seq))]
    missed = []
    for number in range(1000):
        edited = [dict(row) for row in rows]
        edit = draw.choice([byte_changed, byte_changed, deleted, moved, forged, cut])
        edit(edited, draw)
        try:
            with filled.database.write() as connection:
                connection.execute(delete(AUDIT))
                connection.execute(insert(AUDIT), edited) if edited else None
        except IntegrityError:  # a number that is there twice the database refuses by itself
            continue
        try:
            filled.audit.verify(filled.database)
        except ServiceError:
            continue
        missed.append((number, edit.__name__))
    assert missed == []


def test_a_changed_head_and_another_key_are_found(filled, tmp_path):
    with pytest.raises(ServiceError, match="entry 1 was altered"):
        AuditLog(tmp_path / "other").verify(filled.database)
    with filled.database.write() as connection:
        connection.execute(update(AUDIT_HEAD).values(hash="0" * 64))
    with pytest.raises(ServiceError, match="entries after 40 are missing"):
        filled.audit.verify(filled.database)
    with filled.database.write() as connection:
        connection.execute(delete(AUDIT_HEAD))
    with pytest.raises(ServiceError, match="head is missing"):
        filled.audit.verify(filled.database)


def test_an_end_that_was_cut_off_shows_by_what_was_kept_elsewhere(filled):
    """Whoever can write the database removes the last entries and sets the head back."""
    kept = filled.audit.mark(filled.database)
    with filled.database.write() as connection:
        filled.audit.add(connection, "key", "job.create", "x")
    assert filled.audit.verify(filled.database, kept) == 41
    with filled.database.write() as connection:
        connection.execute(delete(AUDIT).where(AUDIT.c.seq > 30))
        last = connection.execute(select(AUDIT.c.hash).where(AUDIT.c.seq == 30)).scalar_one()
        connection.execute(update(AUDIT_HEAD).values(seq=30, hash=last))
    assert filled.audit.verify(filled.database) == 30  # the chain alone cannot tell
    with pytest.raises(ServiceError, match="entries 31 to 40 were cut off"):
        filled.audit.verify(filled.database, kept)
    with filled.database.write() as connection:
        for _ in range(20):
            filled.audit.add(connection, "key", "job.create", "y")
    with pytest.raises(ServiceError, match="entry 40 is another than the one known"):
        filled.audit.verify(filled.database, kept)


@pytest.mark.parametrize("known", ["", "40", "x:y", f"-1:{'0' * 64}", f"1:{'0' * 63}"])
def test_a_mark_that_is_none_is_refused(filled, known):
    with pytest.raises(UsageError, match="NUMBER:HASH"):
        filled.audit.verify(filled.database, known)


def test_the_mark_of_an_empty_log_holds(parts):
    assert parts.audit.verify(parts.database, parts.audit.mark(parts.database)) == 0


def test_what_customers_do_is_in_the_log(parts, server, client):
    file = client.files.create(file=("rows.jsonl", upload()), purpose="fine-tune")
    job = client.fine_tuning.jobs.create(model="miniature", training_file=file.id)
    client.fine_tuning.jobs.cancel(job.id)
    with parts.database.read() as connection:
        rows = connection.execute(select(AUDIT).order_by(AUDIT.c.seq)).all()
    assert [(row.action, row.target) for row in rows] == [
        ("file.create", file.id),
        ("job.create", job.id),
        ("job.cancel", job.id),
    ]
    assert file.sha256 in rows[1].detail
    assert all(row.actor.startswith("key_") for row in rows)
    assert parts.audit.verify(parts.database) == 3


def test_what_was_not_done_is_not_in_the_log(parts):
    with suppress(ZeroDivisionError), parts.database.write() as connection:
        parts.audit.add(connection, "key", "job.create", "x")
        raise ZeroDivisionError
    assert parts.audit.verify(parts.database) == 0

"""Files and uploads in parts: what is taken, what is refused, and that nothing is left of a refusal."""

import io
import json
import socket
import threading
import time
from urllib.parse import urlsplit

import openai
import pytest

from tests.service.conftest import Server, make_parts, new_key, until, upload


def leftovers(parts):
    return [*parts.blobs.names(), *(path.name for path in (parts.settings.folder / "staging").iterdir())]


def test_a_file_is_uploaded_listed_read_and_deleted(parts, client):
    content = upload()
    file = client.files.create(file=("rows.jsonl", content), purpose="fine-tune",
                               expires_after={"anchor": "created_at", "seconds": 3600})  # fmt: skip
    assert (file.bytes, file.filename, file.status) == (len(content), "rows.jsonl", "processed")
    assert file.expires_at == file.created_at + 3600
    assert client.files.content(file.id).read() == content
    assert [one.id for one in client.files.list()] == [file.id]
    assert client.files.delete(file.id).deleted
    with pytest.raises(openai.NotFoundError):
        client.files.retrieve(file.id)
    assert leftovers(parts) == []


def test_an_upload_in_parts_becomes_one_file(parts, client):
    content = upload(rows=200)
    made = client.uploads.create(filename="r.jsonl", purpose="fine-tune", bytes=len(content), mime_type="text/jsonl")
    halves = [content[:1000], content[1000:]]
    names = [client.uploads.parts.create(made.id, data=io.BytesIO(half)).id for half in halves]
    with pytest.raises(openai.BadRequestError, match="would be longer"):
        client.uploads.parts.create(made.id, data=b"more")
    with pytest.raises(openai.BadRequestError, match=r"md5 is"):
        client.uploads.complete(made.id, part_ids=names, md5="0" * 32)
    done = client.uploads.complete(made.id, part_ids=names)
    assert (done.status, done.file.bytes) == ("completed", len(content))
    assert client.files.content(done.file.id).read() == content
    # Asked once more, as after an answer that was lost.
    assert client.uploads.complete(made.id, part_ids=names).file.id == done.file.id
    assert leftovers(parts) == [done.file.id]


def test_parts_that_are_never_put_together_fill_no_more_than_the_projects_room(tmp_path):
    content = upload()
    half = len(content) // 2
    parts = make_parts(tmp_path / "narrow", sizes={"stored_bytes": len(content) + half})
    server = Server(parts)
    key = new_key(parts)
    client, other = server.client(key), server.client(new_key(parts, "other"))

    def begun(one=client):
        return one.uploads.create(filename="r", purpose="fine-tune", bytes=len(content), mime_type="text/jsonl").id

    first, second = begun(), begun()
    names = [client.uploads.parts.create(first, data=piece).id for piece in (content[:half], content[half:])]
    client.uploads.parts.create(second, data=content[:half])
    for refused in (
        lambda: client.uploads.parts.create(second, data=b"x"),
        lambda: client.files.create(file=("r", content), purpose="fine-tune"),
    ):
        with pytest.raises(openai.RateLimitError, match="cancel uploads") as raised:
            refused()
        assert raised.value.body["code"] == "quota_exceeded"
    assert len(parts.blobs.names()) == 3  # nothing is left of what was refused
    other.uploads.parts.create(begun(other), data=content)  # another project has room of its own
    # A file made of parts takes their room, and is not counted beside them.
    assert client.uploads.complete(first, part_ids=names).status == "completed"
    with pytest.raises(openai.RateLimitError):
        client.uploads.parts.create(second, data=b"x")
    client.uploads.cancel(second)
    client.uploads.parts.create(begun(), data=content[:half])
    server.close()


def test_a_cancelled_upload_takes_nothing_more(parts, client):
    made = client.uploads.create(filename="r.jsonl", purpose="fine-tune", bytes=10, mime_type="text/jsonl")
    part = client.uploads.parts.create(made.id, data=b"12345").id
    assert client.uploads.cancel(made.id).status == "cancelled"
    assert leftovers(parts) == []
    for call in (
        lambda: client.uploads.parts.create(made.id, data=b"1"),
        lambda: client.uploads.complete(made.id, part_ids=[part]),
    ):
        with pytest.raises(openai.BadRequestError, match="is cancelled"):
            call()


def test_the_client_uploads_a_large_file_in_chunks(client, tmp_path):
    (tmp_path / "rows.jsonl").write_bytes(upload(rows=300))
    done = client.uploads.upload_file_chunked(
        file=tmp_path / "rows.jsonl", mime_type="text/jsonl", purpose="fine-tune", part_size=4096
    )
    assert client.files.content(done.file.id).read() == (tmp_path / "rows.jsonl").read_bytes()


@pytest.fixture
def small(tmp_path):
    """A service that takes files of 100 kB."""
    parts = make_parts(tmp_path / "small", sizes={"file_bytes": 100_000, "body_bytes": 10_000, "idle_seconds": 0.5})
    server = Server(parts)
    yield server
    server.close()


def form(content, **fields):
    return {"files": {"file": ("rows.jsonl", content)}, "data": {"purpose": "fine-tune", **fields}}


def pieces(size):
    head = b'--x\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\n'
    yield head
    for _ in range(size // 1000):
        yield b"a" * 1000


@pytest.mark.parametrize("size", [101_000, 1_200_000, 20_000_000])
def test_a_file_over_the_limit_leaves_nothing(small, size):
    key = new_key(small.parts)
    with small.http(key) as http:
        answer = http.post("/v1/files", **form(b"a" * size))
        assert answer.status_code == 413, answer.text
        assert answer.json()["error"]["code"] == "body_too_large"
        # Without a length of its own, in pieces.
        headers = {"Content-Type": "multipart/form-data; boundary=x"}
        answer = http.post("/v1/files", content=pieces(size), headers=headers)
        assert answer.status_code == 413, answer.text
        assert http.post("/v1/fine_tuning/jobs", content=b"1" * 10_001).status_code == 413
    assert leftovers(small.parts) == []


def raw(server, key, length, body, wait=5):
    """The answer to a request of which we write every byte."""
    where = urlsplit(server.url)
    with socket.create_connection((where.hostname, where.port)) as connection:
        head = (
            f"POST /v1/files HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {key}\r\n"
            f"Content-Type: multipart/form-data; boundary=x\r\nContent-Length: {length}\r\n\r\n"
        )
        connection.sendall(head.encode() + body)
        connection.settimeout(wait)
        return connection.recv(1000)


def test_a_body_that_lies_about_its_length_leaves_nothing(small):
    key, body = new_key(small.parts), b"".join(pieces(3000))
    assert b" 400 " in raw(small, key, 2000, body)  # shorter than what comes: the form ends in its middle
    assert b" 408 " in raw(small, key, 90_000, body)  # longer: the rest never comes
    assert leftovers(small.parts) == []


def test_a_client_that_goes_away_leaves_nothing(small):
    key = new_key(small.parts)
    where = urlsplit(small.url)
    with socket.create_connection((where.hostname, where.port)) as connection:
        connection.sendall(
            f"POST /v1/files HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {key}\r\n"
            "Content-Type: multipart/form-data; boundary=x\r\nContent-Length: 90000\r\n\r\n".encode()
            + b"".join(pieces(3000))
        )
        until(lambda: leftovers(small.parts))
    until(lambda: leftovers(small.parts) == [])


def test_a_slow_body_does_not_hold_up_others(small):
    key = new_key(small.parts)
    slow = [threading.Thread(target=raw, args=(small, key, 1000, b"--x")) for _ in range(20)]
    with small.http(key) as http:
        http.get("/v1/files")
        alone = max(_seconds(http) for _ in range(20))
        for one in slow:
            one.start()
        beside = max(_seconds(http) for _ in range(20))
    for one in slow:
        one.join()
    assert beside < max(2 * alone, 0.1)


def _seconds(http):
    began = time.perf_counter()
    assert http.get("/v1/files").status_code == 200
    return time.perf_counter() - began


@pytest.mark.parametrize(
    ("files", "data", "code"),
    [
        ([("file", ("a", b"{}")), ("file", ("b", b"{}"))], {"purpose": "fine-tune"}, "too_many_files"),
        ([("file", ("a", b"{}"))], {"purpose": "fine-tune", **{f"f{i}": "" for i in range(9)}}, "too_many_fields"),
        ([("file", ("a", b"{}"))], {"purpose": "x" * 70_000}, "field_too_long"),
        ([("file", ("a", b"{}"))], {"purpose": "batch"}, None),
        ([("file", ("a", b"{}"))], {"purpose": "fine-tune", "other": "1"}, "unknown_parameter"),
        ([("other", ("a", b"{}"))], {"purpose": "fine-tune"}, None),
        ([("file", ("a", b"{}"))], {"purpose": "fine-tune", "expires_after[seconds]": "5"}, None),
    ],
)
def test_a_form_beyond_the_rules_is_refused(parts, server, key, files, data, code):
    with server.http(key) as http:
        answer = http.post("/v1/files", files=files, data=data)
    assert answer.status_code == 400, answer.text
    assert answer.json()["error"]["code"] == code
    assert leftovers(parts) == []


def test_a_damaged_form_is_refused(parts, server, key):
    for kind, body in (
        ("multipart/form-data; boundary=x", b"--x\r\nnothing"),
        (
            "multipart/form-data; boundary=x",
            b'--x\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\nabc',
        ),
        ("multipart/form-data", b""),
        ("application/json", b"{}"),
        ("multipart/form-data; boundary=x", b""),
    ):
        with server.http(key) as http:
            answer = http.post("/v1/files", content=body, headers={"Content-Type": kind})
        assert answer.status_code == 400, (kind, body)
    assert leftovers(parts) == []


HOSTILE = [
    "../../etc/passwd", "..\\..\\windows", "/etc/passwd", "C:\\x", "a\0b", "a\r\nSet-Cookie: x=1", "a\nb", "CON", "nul",
    "\u202egnp.exe", "a\u200bb", "x" * 4000, ".", "..", "...", "", " ", "~root", "$(touch x)", "`id`", "a;b", 'a"b',
    "%2e%2e%2f", "..%c0%af", "file:///etc/passwd", "http://127.0.0.1/", "\ud800", "\x1b[31m", "a/b/c", "/", "\\", "|x",
    "a\tb", "-rf", "\ufeffx", "\U000e0041", "<script>alert(1)</script>", "{{7*7}}", "${x}", "rows.jsonl/", "a\u2028b",
]  # fmt: skip


def test_no_name_of_a_file_gets_anywhere(parts, server, key):
    names = [*HOSTILE, *(f"{'../' * n}{name}" for n in (1, 2, 5, 9) for name in HOSTILE)][:200]
    before = set(parts.settings.folder.parent.rglob("*"))
    with server.http(key) as http:
        for name in names:
            said = name.encode("utf-8", "surrogatepass")
            for one, other in ((b"\r", b"%0D"), (b"\n", b"%0A"), (b'"', b"%22")):  # as browsers do
                said = said.replace(one, other)
            body = (
                b'--x\r\nContent-Disposition: form-data; name="purpose"\r\n\r\nfine-tune\r\n'
                b'--x\r\nContent-Disposition: form-data; name="file"; filename="' + said + b'"\r\n\r\n'
                + upload() + b"\r\n--x--\r\n"
            )  # fmt: skip
            answer = http.post("/v1/files", content=body, headers={"Content-Type": "multipart/form-data; boundary=x"})
            assert answer.status_code in (200, 400), (name, answer.text)
            if answer.status_code == 200:
                found = answer.json()
                shown = found["filename"]
                assert shown.isprintable()
                assert not set(shown) & set("/\\\0\r\n")
                assert len(shown) <= 255
                content = http.get(f"/v1/files/{found['id']}/content")
                assert content.headers["content-disposition"] == f'attachment; filename="{found["id"]}"'
    new = set(parts.settings.folder.parent.rglob("*")) - before
    assert {path.parent for path in new if path.is_file()} <= {parts.settings.folder / "files", parts.settings.folder}
    assert all(path.name.startswith("file-") for path in new if path.parent.name == "files")


@pytest.mark.parametrize(
    ("head", "found"),
    [
        (b"\x1f\x8b\x08", "gzip"),
        (b"PK\x03\x04", "zip"),
        (b"\xfd7zXZ\x00", "xz"),
        (b"\x28\xb5\x2f\xfd", "zstd"),
        (b"PAR1", "Parquet"),
        (b"BZh9", "bzip2"),
        (b"SQLite format 3\x00", "SQLite"),
    ],
)
def test_a_packed_file_is_refused_by_its_first_bytes(parts, client, head, found):
    with pytest.raises(openai.BadRequestError, match=found):
        client.files.create(file=("rows.jsonl", head + b"\0" * 5000), purpose="fine-tune")
    assert leftovers(parts) == []


ROW = json.dumps({"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]}).encode()


@pytest.mark.parametrize(
    ("line", "code"),
    [
        (b'{"messages": ' + b"[" * 200_000, "invalid_json"),
        (b'{"messages": ' + b"9" * 5000 + b"}", "invalid_json"),
        (b'{"messages": NaN}', "invalid_json"),
        (b'{"messages": [], "messages": []}', "invalid_json"),
        (
            b'{"messages": [{"role": "user", "content": "\\ud800"}, {"role": "assistant", "content": "a"}]}',
            "invalid_row",
        ),
        (b'{"messages": "a\0b"}', "invalid_encoding"),
        (b'{"messages": "\xff"}', "invalid_encoding"),
        (b'{"messages": "' + b"a" * 2_000_000 + b'"}', "row_too_long"),
        (b"not json", "invalid_json"),
        (b'{"messages": [{"role": "robot", "content": "q"}]}', "invalid_row"),
        (b'{"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": ""}]}', "invalid_row"),
        (b'{"prompts": "q"}', "invalid_row"),
    ],
)
def test_a_row_that_cannot_be_used_is_named_by_its_line(client, line, code):
    file = client.files.create(file=("rows.jsonl", b"\n".join([ROW, ROW, line, ROW])), purpose="fine-tune")
    assert file.status == "error", file
    assert file.row_errors["count"] >= 1
    first = file.row_errors["rows"][0]
    assert first["line"] == 3
    assert first["code"] in (code, "invalid_row"), first
    assert "/" not in first["message"].split("expected")[0]
    with pytest.raises(openai.BadRequestError) as refused:
        client.fine_tuning.jobs.create(model="miniature", training_file=file.id)
    error = refused.value.body
    assert (error["code"], error["param"], error["rows"][0]["line"]) == ("invalid_training_file", "training_file", 3)


def test_twenty_rows_are_listed_and_all_are_counted(client):
    file = client.files.create(file=("rows.jsonl", b"\n".join([ROW, *[b"{}"] * 50])), purpose="fine-tune")
    assert file.row_errors["count"] == 50
    assert [row["line"] for row in file.row_errors["rows"]] == list(range(2, 22))


def test_a_byte_order_mark_and_utf16_are_told_apart(client):
    assert client.files.create(file=("r", b"\xef\xbb\xbf" + upload()), purpose="fine-tune").status == "processed"
    with pytest.raises(openai.BadRequestError, match="UTF-16"):
        client.files.create(file=("r", upload().decode().encode("utf-16")), purpose="fine-tune")


def test_the_files_of_a_project_have_a_limit(tmp_path):
    parts = make_parts(tmp_path / "tight", sizes={"stored_bytes": 2000})
    server = Server(parts)
    client = server.client(new_key(parts))
    client.files.create(file=("r", upload()), purpose="fine-tune")
    with pytest.raises(openai.RateLimitError, match="more than 2000 bytes"):
        client.files.create(file=("r", upload()), purpose="fine-tune")
    assert len(leftovers(parts)) == 1
    server.close()

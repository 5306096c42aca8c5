"""Reads a multipart form as it arrives, holding neither the file nor more of the rest than is allowed."""

from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field

import anyio
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from mithridate.service.contract.api_refusal import ApiRefusal

MOST_FIELDS = 8
MOST_FIELD_BYTES = 64 << 10
_MOST_HEADER_BYTES = 16 << 10  # of one part; a file's name of 4 KB fits


@dataclass
class FormPart:
    """One part of a form, while it is read."""

    header: bytes = b""
    headers: dict[str, bytes] = field(default_factory=dict)
    name: str = ""
    filename: str | None = None
    value: bytearray = field(default_factory=bytearray)


class FormReader:
    """A form with fields and one file.

    Attributes:
        fields: Texts by name.
        filename: The file's name as the client gave it; None where there is no file.

    Args:
        content_type: The request's content type.
        take: Called with each piece of the file.

    Raises:
        ApiRefusal: If the request is no such form.
    """

    def __init__(self, content_type: str, file_field: str, take: Callable[[bytes], object]) -> None:
        kind, options = parse_options_header(content_type)
        boundary = options.get(b"boundary")
        if kind != b"multipart/form-data" or not boundary:
            raise ApiRefusal(400, "send the file as multipart/form-data", param=file_field, code="invalid_form")
        self.fields: dict[str, str] = {}
        self.filename: str | None = None
        self._file_field, self._take = file_field, take
        self._part = FormPart()
        self._pending: list[bytes] = []
        self._parser = MultipartParser(
            boundary,
            {
                "on_part_begin": self._began,
                "on_header_field": self._header_name,
                "on_header_value": self._header_value,
                "on_header_end": self._header_ended,
                "on_headers_finished": self._headers_finished,
                "on_part_data": self._data,
                "on_part_end": self._ended,
                "on_end": self._finished,
            },
            max_header_size=_MOST_HEADER_BYTES,
        )
        self._whole = False

    async def read(self, pieces: AsyncIterator[bytes]) -> None:
        """Read the whole form.

        Raises:
            ApiRefusal: If it is damaged or beyond a limit.
        """
        async for piece in pieces:
            try:
                self._parser.write(piece)
            except FormParserError as error:
                raise _damaged() from error
            if self._pending:
                taken, self._pending = b"".join(self._pending), []
                # A slow disk must not hold up the other requests.
                await anyio.to_thread.run_sync(self._take, taken)
        if not self._whole:
            raise _damaged()
        if self.filename is None:
            raise ApiRefusal(400, f"the form holds no file '{self._file_field}'", param=self._file_field)

    def _began(self) -> None:
        self._part = FormPart()

    def _header_name(self, data: bytes, start: int, end: int) -> None:
        self._part.header += data[start:end]

    def _header_value(self, data: bytes, start: int, end: int) -> None:
        # A colon between name and value, which the parser has taken away.
        part = self._part
        if b"\0" not in part.header:
            part.header += b"\0"
        part.header += data[start:end]

    def _header_ended(self) -> None:
        name, _, value = self._part.header.partition(b"\0")
        self._part.headers[name.decode("latin-1").lower()] = value
        self._part.header = b""

    def _headers_finished(self) -> None:
        part = self._part
        _, options = parse_options_header(part.headers.get("content-disposition", b""))
        part.name = options.get(b"name", b"").decode("utf-8", "replace")
        if b"filename" in options:
            part.filename = options[b"filename"].decode("utf-8", "replace")
            if self.filename is not None:
                raise ApiRefusal(400, "send one file in a request", param=self._file_field, code="too_many_files")
            if part.name != self._file_field:
                raise ApiRefusal(400, f"send the file as '{self._file_field}'", param=self._file_field)
            self.filename = part.filename
        elif len(self.fields) >= MOST_FIELDS:
            raise ApiRefusal(400, f"send at most {MOST_FIELDS} fields", code="too_many_fields")

    def _data(self, data: bytes, start: int, end: int) -> None:
        part = self._part
        if part.filename is not None:
            self._pending.append(data[start:end])
            return
        part.value += data[start:end]
        if len(part.value) > MOST_FIELD_BYTES:
            raise ApiRefusal(400, f"a field is longer than {MOST_FIELD_BYTES} bytes", code="field_too_long")

    def _ended(self) -> None:
        part = self._part
        if part.filename is None:
            if part.name in self.fields:
                raise ApiRefusal(400, f"field '{part.name[:80]}' is there twice", code="invalid_form")
            self.fields[part.name] = part.value.decode("utf-8", "replace")

    def _finished(self) -> None:
        self._whole = True


def _damaged() -> ApiRefusal:
    return ApiRefusal(400, "the form is damaged or was cut short; send it again", code="invalid_form")

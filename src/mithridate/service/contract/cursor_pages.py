"""Lists: page by page, by the id of the last object that the client has seen."""

from typing import Any, Generic, Literal, NamedTuple, TypeVar

from pydantic import BaseModel
from sqlalchemy import Connection, Row, Select, Table

from mithridate.service.contract.api_refusal import ApiRefusal

Item = TypeVar("Item", bound=BaseModel)


class ObjectPage(BaseModel, Generic[Item]):
    """One page of a list."""

    object: Literal["list"] = "list"
    data: list[Item]
    has_more: bool
    first_id: str | None = None
    last_id: str | None = None


class PageAsk(NamedTuple):
    """Which page a client asks for.

    Attributes:
        after: Id of the last object of the page before; None for the first page.
        limit: Objects on a page.
        newest_first: Order of the list.
    """

    after: str | None
    limit: int
    newest_first: bool = True


def page_of(connection: Connection, table: Table, query: Select[Any], ask: PageAsk) -> tuple[list[Row[Any]], bool]:
    """Return the rows of one page, and whether more follow.

    A page begins behind the row that the client saw last, whatever has been added since; so nothing is shown twice and
    nothing left out.

    Args:
        connection: The database.
        table: Its table, with the columns ``seq`` and ``id``.
        query: What may be listed: a selection of the whole table, without order.
        ask: The page.

    Raises:
        ApiRefusal: If there is no object ``after`` which to begin.
    """
    seq = table.c.seq
    if ask.after is not None:
        # Looked up within what may be listed: another project's id is unknown here.
        last = connection.execute(query.with_only_columns(seq).where(table.c.id == ask.after)).scalar_one_or_none()
        if last is None:
            raise ApiRefusal(400, f"there is no object '{ask.after[:80]}' to list after", param="after")
        query = query.where(seq < last if ask.newest_first else seq > last)
    # One more than asked for says whether more follow, without counting them.
    ordered = query.order_by(seq.desc() if ask.newest_first else seq.asc()).limit(ask.limit + 1)
    rows = list(connection.execute(ordered))
    return rows[: ask.limit], len(rows) > ask.limit


def listed(items: list[Item], more: bool) -> ObjectPage[Item]:
    """Return objects as a page."""
    ids = [str(getattr(item, "id")) for item in items]  # noqa: B009  # of any object, which all have an id
    return ObjectPage(data=items, has_more=more, first_id=ids[0] if ids else None, last_id=ids[-1] if ids else None)

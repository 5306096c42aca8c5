"""Models: those that can be tuned, and the project's released ones."""

from typing import Annotated, Literal

from fastapi import APIRouter, Query, Request
from pydantic import BaseModel, ConfigDict, Field
from sqlalchemy import Row, delete, select

from mithridate.service.contract.api_refusal import not_found
from mithridate.service.contract.cursor_pages import ObjectPage, PageAsk, listed, page_of
from mithridate.service.database.tables import MODELS, PERMISSIONS
from mithridate.service.released_models import delete_model, model_row, share, usable
from mithridate.service.routes.access import Parts, Reader, Writer
from mithridate.service.service_parts import ServiceParts

routes = APIRouter(prefix="/v1", tags=["Models"])


class ModelObject(BaseModel):
    """A model; ``files`` is ours: the SHA-256 of each file of a released one."""

    id: str
    object: Literal["model"] = "model"
    created: int
    owned_by: str
    files: dict[str, str] | None = None


class DeletedModel(BaseModel):
    """A model that was deleted."""

    id: str
    object: Literal["model"] = "model"
    deleted: bool = True


class ModelList(BaseModel):
    """All models; the contract gives them in one piece."""

    object: Literal["list"] = "list"
    data: list[ModelObject]


class SharingRequest(BaseModel):
    """Projects that may use a model."""

    model_config = ConfigDict(extra="forbid")

    project_ids: list[str] = Field(min_length=1, max_length=100)


class PermissionObject(BaseModel):
    """One project's permission to use a model."""

    id: str
    object: Literal["checkpoint.permission"] = "checkpoint.permission"
    created_at: int
    project_id: str


class DeletedPermission(BaseModel):
    """A permission that was taken back."""

    id: str
    object: Literal["checkpoint.permission"] = "checkpoint.permission"
    deleted: bool = True


@routes.get("/models", operation_id="list_models")
def list_models(parts: Parts, caller: Reader) -> ModelList:
    """List the models that can be tuned and the released ones that the project may use."""
    with parts.database.read() as connection:
        rows = connection.execute(select(MODELS).where(usable(caller.project)).order_by(MODELS.c.seq.desc())).all()
    return ModelList(data=[*_offered(parts), *(_released(parts, row) for row in rows)])


@routes.get("/models/{model:path}", operation_id="retrieve_model")
def retrieve_model(model: str, parts: Parts, caller: Reader) -> ModelObject:
    """Return a model."""
    for found in _offered(parts):
        if found.id == model:
            return found
    with parts.database.read() as connection:
        return _released(parts, model_row(connection, caller.project, model))


@routes.delete("/models/{model:path}", operation_id="delete_model")
def delete_(model: str, request: Request, parts: Parts, caller: Writer) -> DeletedModel:
    """Delete a released model."""
    delete_model(parts, caller, model)
    request.app.state.chat.forget(model)
    return DeletedModel(id=model)


@routes.post("/fine_tuning/checkpoints/{model}/permissions", operation_id="create_checkpoint_permission")
def create_permission(model: str, body: SharingRequest, parts: Parts, caller: Writer) -> ObjectPage[PermissionObject]:
    """Let other projects use a released model."""
    return listed([_permission(row) for row in share(parts, caller, model, body.project_ids)], False)


@routes.get("/fine_tuning/checkpoints/{model}/permissions", operation_id="list_checkpoint_permissions")
def list_permissions(
    model: str,
    parts: Parts,
    caller: Reader,
    after: Annotated[str | None, Query(max_length=80)] = None,
    limit: Annotated[int, Query(ge=1, le=100)] = 10,
    order: Literal["ascending", "descending"] = "descending",
    project_id: Annotated[str | None, Query(max_length=80)] = None,
) -> ObjectPage[PermissionObject]:
    """List who may use a released model."""
    with parts.database.read() as connection:
        row = model_row(connection, caller.project, model, own=True)
        query = select(PERMISSIONS).where(PERMISSIONS.c.model_id == row.id)
        if project_id is not None:
            query = query.where(PERMISSIONS.c.project_id == project_id)
        rows, more = page_of(connection, PERMISSIONS, query, PageAsk(after, limit, order == "descending"))
    return listed([_permission(row) for row in rows], more)


@routes.delete(
    "/fine_tuning/checkpoints/{model}/permissions/{permission_id}", operation_id="delete_checkpoint_permission"
)
def delete_permission(model: str, permission_id: str, parts: Parts, caller: Writer) -> DeletedPermission:
    """Take a permission back."""
    with parts.database.write() as connection:
        row = model_row(connection, caller.project, model, own=True)
        same = (PERMISSIONS.c.id == permission_id) & (PERMISSIONS.c.model_id == row.id)
        if connection.execute(delete(PERMISSIONS).where(same)).rowcount != 1:
            raise not_found("permission", permission_id)
        parts.audit.add(connection, caller.key, "model.unshare", row.id, permission=permission_id)
    return DeletedPermission(id=permission_id)


def _offered(parts: ServiceParts) -> list[ModelObject]:
    owner = parts.settings.organization
    return [ModelObject(id=name, created=0, owned_by=owner) for name in sorted(parts.settings.offered)]


def _released(parts: ServiceParts, row: Row[tuple[object, ...]]) -> ModelObject:
    return ModelObject(id=row.id, created=row.created_at, owned_by=parts.settings.organization, files=row.files)


def _permission(row: Row[tuple[object, ...]]) -> PermissionObject:
    return PermissionObject(id=row.id, created_at=row.created_at, project_id=row.project_id)

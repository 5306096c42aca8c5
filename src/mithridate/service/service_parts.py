"""The parts that server and workers share."""

from dataclasses import dataclass
from typing import Self

from mithridate.service.audit_log import AuditLog
from mithridate.service.blob_store import BlobStore
from mithridate.service.database.migrating import require_newest
from mithridate.service.database.opened import Database
from mithridate.service.service_settings import ServiceSettings


@dataclass(frozen=True)
class ServiceParts:
    """What a process of the service works with."""

    settings: ServiceSettings
    database: Database
    blobs: BlobStore
    audit: AuditLog

    @classmethod
    def open(cls, settings: ServiceSettings) -> Self:
        """Open what the settings name.

        Raises:
            ServiceError: If the database is of another version.
        """
        settings.folder.mkdir(parents=True, exist_ok=True)
        database = Database(settings.database_url)
        require_newest(database)
        blobs = BlobStore(settings.storage_url, settings.folder / "staging")
        return cls(settings, database, blobs, AuditLog(settings.folder))

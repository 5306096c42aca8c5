"""Everything that an operator can set, checked when the service starts."""

from pathlib import Path
from typing import Any

from pydantic import Field, ValidationError, model_validator

from mithridate.errors import UsageError
from mithridate.experiment.recipe_part import RecipePart
from mithridate.experiment.strict_yaml import read_yaml
from mithridate.validation import sentence

MEBIBYTE = 1 << 20


class SizeLimits(RecipePart):
    """What one request and one project may hold.

    Attributes:
        file_bytes: Largest file that is uploaded in one request; OpenAI's is 512 MB.
        part_bytes: Largest part of an upload in parts.
        upload_bytes: Largest upload in parts.
        checked_bytes: Largest file whose rows are checked while it is uploaded; others are checked when a job starts.
        stored_bytes: All files of one project together, with the parts of its unfinished uploads.
        body_bytes: Largest body of any other request.
        idle_seconds: Longest wait for the next piece of a body.
    """

    file_bytes: int = Field(512 * MEBIBYTE, ge=1)
    part_bytes: int = Field(64 * MEBIBYTE, ge=1)
    upload_bytes: int = Field(8192 * MEBIBYTE, ge=1)
    checked_bytes: int = Field(16 * MEBIBYTE, ge=0)
    stored_bytes: int = Field(65536 * MEBIBYTE, ge=1)
    body_bytes: int = Field(MEBIBYTE, ge=1)
    idle_seconds: float = Field(30, gt=0)


class UseLimits(RecipePart):
    """How much one project may ask for.

    Attributes:
        active_jobs: Jobs of one project that are not finished; paused ones count.
        requests_per_minute: Requests of one key; counted by each server process on its own.
        chats: Chat completions that are generated at the same time; each takes one of the server's 40 threads.
        chat_tokens: Most tokens of one answer.
    """

    active_jobs: int = Field(20, ge=1)
    requests_per_minute: int = Field(3000, ge=1)
    chats: int = Field(2, ge=1, le=32)
    chat_tokens: int = Field(1024, ge=1)


class Leases(RecipePart):
    """How a lost worker is found; in seconds.

    Attributes:
        poll: Between two looks for work, and between two looks at a running job.
        beat: Between two signs of life of a worker.
        patience: Without a sign of life after which a job is taken from its worker.
        attempts: How often a job is started before it fails as ``worker_lost``.
        grace: Time a job's process has to end by itself before it is killed.
    """

    poll: float = Field(1, gt=0)
    beat: float = Field(10, gt=0)
    patience: float = Field(30, gt=0)
    attempts: int = Field(3, ge=1)
    grace: float = Field(5, gt=0)

    @model_validator(mode="after")
    def _in_order(self) -> "Leases":
        if self.patience < 2 * self.beat:
            raise ValueError("patience must be at least twice beat, or a worker that is busy would pass for lost")
        return self


class ProcessLimits(RecipePart):
    """What the process of one job may use.

    Attributes:
        memory_bytes: Most memory for its data; no limit by default, since a model's need is the operator's to know.
        file_bytes: Largest file that it may write.
        open_files: Most files open at once.
        environment: Further environment variables that it is given, such as the key of a judge.
        network: Whether it may use the network, as a judge behind an endpoint needs.
        sandbox: ``auto`` confines it where the kernel can, ``required`` fails jobs where it cannot, ``off`` never does.
    """

    memory_bytes: int | None = Field(None, ge=1)
    file_bytes: int = Field(256 << 30, ge=1)
    open_files: int = Field(4096, ge=64)
    environment: list[str] = Field(default_factory=list)
    network: bool = False
    sandbox: str = Field("auto", pattern="^(auto|required|off)$")


class EngineSettings(RecipePart):
    """Where the processes of jobs run.

    Attributes:
        kind: ``local`` runs them on the worker's machine, ``ray`` on a cluster that sees the service's folder, the
            models and the policy under the same paths.
        address: Address of the cluster's dashboard, such as ``http://ray-head:8265``. A token of its own is read from
            the environment variable ``RAY_AUTH_TOKEN``.
        python: The interpreter on the cluster, with this package installed.
        cpus: CPUs that each job reserves there; it waits for a node that has them.
        gpus: GPUs that each job reserves there; it sees no others.
        patience: Seconds without an answer after which the cluster is away.
    """

    kind: str = Field("local", pattern="^(local|ray)$")
    address: str | None = Field(None, pattern="^https?://[^/]+$")
    python: str = "python"
    # Not 0: Ray runs what reserves nothing on the cluster's head, whatever other nodes there are.
    cpus: float = Field(1, gt=0)
    gpus: float = Field(0, ge=0)
    patience: float = Field(60, gt=0)

    @model_validator(mode="after")
    def _reachable(self) -> "EngineSettings":
        if self.kind == "ray" and self.address is None:
            raise ValueError("engine.kind ray needs engine.address, such as http://ray-head:8265")
        return self


class ServiceSettings(RecipePart):
    """The settings of a service.

    Attributes:
        folder: Where everything lies that has no place of its own here.
        database: Address of the database; by default SQLite in the folder.
        storage: Folder or fsspec address of uploaded files; by default in the folder.
        policy: Policy file; the default one is for the miniature.
        models: Names that customers may tune, and the folder of the aligned model of each. Without any, the service
            aligns the miniature at its first start and offers it as ``miniature``.
        organization: Stands in the names of tuned models.
        host: Address to listen on.
        port: Port to listen on.
        workers: Worker processes that the server starts beside itself; each runs one job at a time.
    """

    folder: Path = Path("service")
    database: str | None = None
    storage: str | None = None
    policy: Path | None = None
    models: dict[str, str] = Field(default_factory=dict)
    organization: str = Field("local", pattern=r"^[A-Za-z0-9-]{1,40}$")
    host: str = "127.0.0.1"
    port: int = Field(8000, ge=0, le=65535)
    workers: int = Field(1, ge=0)
    sizes: SizeLimits = SizeLimits()
    uses: UseLimits = UseLimits()
    leases: Leases = Leases()
    process: ProcessLimits = ProcessLimits()
    engine: EngineSettings = EngineSettings()

    @model_validator(mode="after")
    def _sayable(self) -> "ServiceSettings":
        for name in self.models:
            if not name or ":" in name or not name.isprintable():
                raise ValueError(
                    f"models: the name {name!r} must be printable and hold no colon; tuned models have one"
                )
        return self

    @property
    def database_url(self) -> str:
        """Address of the database."""
        return self.database or f"sqlite:///{(self.folder / 'service.db').resolve()}"

    @property
    def storage_url(self) -> str:
        """Folder or address of uploaded files."""
        return self.storage or str((self.folder / "files").resolve())

    @property
    def jobs_folder(self) -> Path:
        """Folder in which every job has its own."""
        return (self.folder / "jobs").resolve()

    @property
    def private(self) -> list[Path]:
        """Folders and files that no job may read: those of all customers, of the keys and of the database."""
        address, storage = self.database_url, self.storage_url.removeprefix("file://")
        named = [address.partition("///")[2]] if address.startswith("sqlite") else []
        named += [] if "://" in storage else [storage]
        return [self.folder.resolve(), self.jobs_folder, *(Path(place).resolve() for place in named)]

    @property
    def offered(self) -> dict[str, Path]:
        """Folders of the aligned models by name."""
        if self.models:
            return {name: Path(folder).resolve() for name, folder in self.models.items()}
        return {"miniature": (self.folder / "aligned").resolve()}


def read_settings(path: Path | None, **given: Any) -> ServiceSettings:
    """Return the settings of a YAML file, where one is given, with others from the command line.

    Args:
        path: The file.
        given: Settings by name; None leaves the file's.

    Raises:
        UsageError: Naming the key at fault, and the nearest valid name where a key is unknown.
    """
    tree: Any = {}
    if path is not None:
        try:
            tree = read_yaml(path)
        except FileNotFoundError as error:
            raise UsageError(
                f"{path} does not exist; give a YAML file of settings, or none for the defaults"
            ) from error
        if not isinstance(tree, dict):
            raise UsageError(f"{path} holds no settings (key: value)")
    tree |= {name: value for name, value in given.items() if value is not None}
    try:
        return ServiceSettings.model_validate(tree)
    except ValidationError as error:
        raise UsageError(sentence(error, ServiceSettings)) from error

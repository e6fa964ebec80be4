"""Every option of the service: one field, one environment variable `LOWERBOUND_*`, one command-line flag."""

import os
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field
from pydantic_settings import NoDecode, SettingsConfigDict

from service.cli import CommandOptions
from service.engine import Device, Precision
from service.inference.limits import MAX_ENGINE_THREADS
from service.observability.logs import Format
from service.scoring import MAX_DRAWS
from service.storage import DEFAULT_REPOSITORY, Location

Host = Annotated[str, Field(pattern=r"^(\*|\.?[\w-]+(\.[\w-]+)*)$")]
Origin = Annotated[str, Field(pattern=r"^(\*|https?://[^/\s]+)$")]


def _split(value: object) -> object:
    """Split several values in one string, as a flag or a variable has them."""
    return value.split(",") if isinstance(value, str) else value


class Settings(CommandOptions):
    """Serve variational autoencoders: encode, decode, sample, and score by the evidence lower bound.

    Examples:
      lowerbound serve                                        the embedded digits, on http://127.0.0.1:8000
      lowerbound serve --models models --poll 10              a folder of bundles, and the new ones put there
      lowerbound serve --models s3://bucket/models --device cuda

    Every option is also an environment variable: --port is LOWERBOUND_PORT.
    """

    model_config = SettingsConfigDict(
        env_prefix="LOWERBOUND_", env_ignore_empty=True, cli_prog_name="lowerbound serve", cli_implicit_flags=True
    )

    host: str = Field(default="127.0.0.1", description="Address to listen on.")
    port: int = Field(default=8000, ge=0, le=65535, description="Port to listen on; 0 takes a free one.")
    models: Location = Field(
        default=DEFAULT_REPOSITORY,
        description="Folder of bundles, <name>/<version>/; one bundle's folder; or a URL, as s3://bucket/models. "
        "Default: the embedded digits.",
    )
    model_cache: Path = Field(
        default=Path("~/.cache/lowerbound"), description="Folder that keeps bundles downloaded from a URL."
    )
    poll: float | None = Field(
        default=None,
        ge=0,
        description="Seconds between checks for new versions; 0 checks only on SIGHUP. Default: no checks.",
    )
    default_model: str | None = Field(
        default=None, description="Model of the paths that name no model, if several are served."
    )
    device: Device = Field(
        default="auto",
        description="Device to compute on; no start if it cannot be used. auto: CUDA if it works, else the CPU.",
    )
    precision: Precision = Field(default="float32", description="Lowest precision of a GPU; only tensorrt has float16.")
    device_memory: int | None = Field(
        default=None, ge=1, description="Limit in MiB for the intermediate results of one graph on a GPU."
    )
    engine_cache: Path | None = Field(default=None, description="Folder for engines that TensorRT has compiled.")
    workers: int = Field(default=1, ge=1, le=1024, description="Number of processes, each with its own engines.")
    engine_threads: int | None = Field(
        default=None,
        ge=1,
        le=MAX_ENGINE_THREADS,
        description="Batches that a process computes at the same time. Default: cores divided by workers, on a GPU 4.",
    )
    max_batch: int | None = Field(
        default=None,
        ge=1,
        description="Limit of rows x draws in one engine call, of rows of up to 4096 values; of larger rows fewer fit. "
        "Default: 512, on a GPU 32768.",
    )
    max_queue: int = Field(
        default=2**18, ge=1, description="Limit of rows x draws that wait in a process, and of one request."
    )
    max_draws: int | None = Field(
        default=None,
        ge=1,
        le=MAX_DRAWS,
        description="Limit of draws for one row. Default: 4096, or as many as fit into one engine call.",
    )
    max_body: int = Field(
        default=64 * 2**20, ge=1, description="Limit of bytes in the body of a request, also after decompression."
    )
    engine_timeout: float = Field(
        default=10.0,
        gt=0,
        description="Seconds after which an engine call counts as hung, and the service replaces the engine.",
    )
    timeout: float = Field(default=30.0, gt=0, description="Seconds after which a request gets 504.")
    read_timeout: float = Field(
        default=5.0, gt=0, description="Seconds for a client to send a request; each KiB gives one back."
    )
    max_connections: int = Field(default=1000, ge=1, description="Limit of connections of a process.")
    graceful_shutdown_timeout: int = Field(
        default=25, ge=0, description="Seconds after SIGTERM to answer the requests in flight."
    )
    api_keys_file: Path | None = Field(
        default=None, description="File of API keys, one a line; each request must then have one of them."
    )
    allowed_hosts: Annotated[tuple[Host, ...], NoDecode, BeforeValidator(_split)] = Field(
        default=(),
        description="Names that requests may have as Host, separated by commas; .example.com for all below it, * for "
        "all. IP addresses are always allowed. Default: localhost if host is a loopback address, or else *.",
    )
    cors_origins: Annotated[tuple[Origin, ...], NoDecode, BeforeValidator(_split)] = Field(
        default=(), description="Origins of web pages that may send requests, separated by commas; * for all."
    )
    explorer: bool = Field(default=True, description="Serve the explorer page at /.")
    trusted_keys: Annotated[tuple[Path, ...], NoDecode, BeforeValidator(_split)] = Field(
        default=(),
        description="PEM files of public keys, separated by commas; a bundle must have the signature of one of them.",
    )
    otlp_endpoint: str | None = Field(
        default_factory=lambda: os.environ.get("OTEL_EXPORTER_OTLP_ENDPOINT"),
        pattern=r"^https?://[^\s]+$",
        description="Address of an OpenTelemetry collector, which receives spans by OTLP over HTTP. "
        "Default: OTEL_EXPORTER_OTLP_ENDPOINT.",
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        default="info", description="Lowest level of the log."
    )
    log_format: Format = Field(default="text", description="Format of the log; json has one object a line.")
    access_log: bool = Field(default=False, description="Log every request, at level info.")

"""`Client` and `AsyncClient`: rows in, answers of the same kind out, however many rows there are."""

import asyncio
import os
import warnings
from collections.abc import Coroutine, Mapping
from functools import partial
from threading import Thread
from typing import Any, Self, TypeVar, Unpack

import httpx
import numpy as np
import pyarrow as pa
from rich.progress import Progress

from .discoveries import NoDiscoveryWarning, discoveries, why_none
from .errors import (
    DeadlineError,
    InvalidError,
    LowerboundError,
    OverloadedError,
    ServiceError,
    TooLargeError,
    UnreachableError,
    error_of,
    renumber,
)
from .options import OptionArguments, Options, RowParameters, ScoreParameters
from .rows import ARROW, Rows, read_latents, read_rows, to_arrays

T = TypeVar("T")


class AsyncClient:
    """A client for asyncio; `Client` has the same methods without `await`.

    Rows are a pandas or Polars frame, an Arrow table, a NumPy array, or a list of records. Answers are of the same
    kind, with the frame's index: a frame, an Arrow table, a dict of arrays, or a list of records. The client cuts many
    rows into requests. The answer to a row does not depend on the cut.

    A request that finds no room waits as `Retry-After` says. A request whose connection breaks is sent once more.

    Args:
        url: Of the service, as `http://localhost:8000`.
        options: See `Options`.
    """

    def __init__(self, url: str, **options: Unpack[OptionArguments]) -> None:
        self._options = given = Options(**options)
        self._batch_rows = given.batch_rows
        path = "" if given.model is None else f"/models/{given.model}"
        path += "" if given.version is None else f"/versions/{given.version}"
        if given.version is not None and given.model is None:
            raise ValueError("a version needs the name of its model")
        self._http = httpx.AsyncClient(
            base_url=url.rstrip("/") + path,
            timeout=given.timeout,
            headers={} if given.key is None else {"Authorization": f"Bearer {given.key}"},
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *error: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    async def model(self) -> dict[str, Any]:
        """The manifest and the state of the model that answers, as `GET /model` gives them.

        Raises:
            LowerboundError: The request fails; each kind of failure has a class of its own.
        """
        response = await self._request("GET", "/model", {})
        try:
            answer: dict[str, Any] = response.json()
        except ValueError as error:
            raise _fault(response, "no JSON") from error
        return answer

    async def score(self, rows: Any, *, progress: bool = False, **parameters: Unpack[ScoreParameters]) -> Any:
        """The bounds of each row on log p(x), in nats, its score and its p-value.

        With `fdr`, `discovery` says which rows to call anomalous among all of them, however many requests they take. If
        it calls none, a `NoDiscoveryWarning` says what is missing.

        Args:
            rows: Of any kind that the class names.
            progress: Whether to draw a bar of the rows that are done.
            parameters: See `ScoreParameters`.

        Raises:
            LowerboundError: See `model`. `InvalidError` has the place of the first offending value.
            TypeError: Rows of a type that is not read.
        """
        source = await self._read(rows, parameters)
        answer = await self._answer("/elbo", source, parameters, progress=progress)
        if (fdr := parameters.get("fdr")) is not None:  # A request's own answer looks at its own rows alone.
            p = answer["p_value"].to_numpy()
            called = discoveries(p, fdr)
            place = answer.schema.get_field_index("discovery")
            answer = answer.set_column(place, "discovery", pa.array(called))
            if not called.any():
                held_out = (await self.model())["manifest"]["calibration"]["rows"]
                warnings.warn(why_none(p, fdr, held_out), NoDiscoveryWarning, stacklevel=2)
        return source.same_kind(answer)

    async def encode(self, rows: Any, *, progress: bool = False, **parameters: Unpack[RowParameters]) -> Any:
        """The posterior q(z given x) of each row: `mean` and `log_variance`, and with `num_draws` also `draws`.

        Args:
            rows: Of any kind that the class names.
            progress: Whether to draw a bar of the rows that are done.
            parameters: See `RowParameters`.

        Raises:
            LowerboundError: See `score`.
            TypeError: See `score`.
        """
        source = await self._read(rows, parameters)
        return source.same_kind(await self._answer("/encode", source, parameters, progress=progress))

    async def decode(self, latents: Any, *, draw: bool = False, seed: int | None = None, progress: bool = False) -> Any:
        """The expected instance of each latent, E[x given z], in data units.

        Args:
            latents: z, (rows, latent size), of any kind that the class names.
            draw: Whether to draw from p(x given z) instead.
            seed: Of the draws. Of latents that take several requests, each request has the same noise.
            progress: Whether to draw a bar of the rows that are done.

        Raises:
            LowerboundError: See `score`.
            TypeError: See `score`.
        """
        source = read_latents(latents)
        query = {"draw": draw, "seed": seed}
        return source.same_kind(await self._answer("/decode", source, query, progress=progress))

    async def sample(
        self, n: int = 1, *, seed: int | None = None, temperature: float | None = None
    ) -> dict[str, np.ndarray[Any, Any]]:
        """New instances from the model's density: `instances`, or a table's columns, and their `latents`, as arrays.

        Args:
            n: How many.
            seed: Of the random numbers; the bundle's own if None.
            temperature: By which the prior's standard deviations are multiplied; 1 if None.

        Raises:
            LowerboundError: See `model`.
        """
        query = {"n": n, "seed": seed, "temperature": temperature}
        arrays = to_arrays(_table(await self._request("GET", "/sample", query)))
        return {name.removeprefix("instances."): values for name, values in arrays.items()}

    async def _read(self, rows: Any, parameters: Mapping[str, Any]) -> Rows:
        """Rows for the wire; of a frame that Arrow cannot hold, the model's columns alone."""
        try:
            return read_rows(rows)
        except InvalidError:
            if parameters.get("extra") == "error":
                raise
            data = (await self.model())["manifest"]["input"]
            wanted = {column["name"] for column in data.get("columns", ())}
            return read_rows(rows[[name for name in rows.columns if name in wanted]])

    async def _answer(self, path: str, rows: Rows, query: Mapping[str, Any], *, progress: bool) -> pa.Table:
        """The answers to all rows, in order."""
        done: dict[int, pa.Table] = {}
        next_row = 0

        async def work() -> None:
            nonlocal next_row
            while next_row < len(rows) or next_row == 0:
                start, next_row = next_row, max(1, min(next_row + self._batch_rows, len(rows)))
                await self._answer_part(path, rows, start, min(next_row, len(rows)), query, done)
                bar.update(drawn, completed=sum(part.num_rows for part in done.values()))

        with Progress(disable=not progress) as bar:
            drawn = bar.add_task("rows", total=len(rows))
            tasks = [asyncio.create_task(work()) for _ in range(self._options.concurrency)]
            try:
                await asyncio.gather(*tasks)
            finally:
                for task in tasks:
                    task.cancel()
        return pa.concat_tables([done[start] for start in sorted(done)], promote_options="permissive")

    async def _answer_part(
        self, path: str, rows: Rows, start: int, stop: int, query: Mapping[str, Any], done: dict[int, pa.Table]
    ) -> None:
        body = await asyncio.to_thread(lambda: rows.encode(rows.values[start:stop]))
        try:
            response = await self._request("POST", path, query, body, rows.media_type, start)
        except (TooLargeError, DeadlineError) as error:
            half = (stop - start) // 2
            if half == 0 or error.status is None:  # Without a status the service may be gone.
                raise
            self._batch_rows = min(self._batch_rows, half)
            await self._answer_part(path, rows, start, start + half, query, done)
            await self._answer_part(path, rows, start + half, stop, query, done)
            return
        answer = _table(response)
        if answer.num_rows != stop - start:
            raise _fault(response, f"{answer.num_rows:,} rows to {stop - start:,}")
        done[start] = _renumber(answer, start)

    async def _request(
        self,
        method: str,
        path: str,
        query: Mapping[str, Any],
        body: bytes | None = None,
        media_type: str | None = None,
        first_row: int = 0,
    ) -> httpx.Response:
        headers = {} if path == "/model" else {"Accept": ARROW}
        headers |= {} if media_type is None else {"Content-Type": media_type}
        given = {name: value for name, value in query.items() if value is not None}
        loop = asyncio.get_running_loop()
        waits_until = loop.time() + self._options.patience
        broken = False
        while True:
            try:
                # A service may give up just at its own limit, and says so; but no answer may trickle in without end.
                async with asyncio.timeout(2 * self._options.timeout):
                    response = await self._http.request(method, path, params=given, content=body, headers=headers)
            except (httpx.TimeoutException, TimeoutError) as error:
                raise DeadlineError(f"no answer within {self._options.timeout:g} seconds") from error
            except httpx.TransportError as error:
                if broken:
                    raise UnreachableError(f"{self._http.base_url}: {error or type(error).__name__}") from error
                broken = True
                continue
            if response.is_success:
                return response
            problem: LowerboundError = error_of(response, first_row)
            after = response.headers.get("Retry-After", "")
            wait = float(after) if after.isdecimal() else 1.0  # Proxies may give a date.
            if not isinstance(problem, OverloadedError) or loop.time() + wait > waits_until:
                raise problem
            await asyncio.sleep(wait)


class Client:
    """A client for ordinary code, notebooks too: the methods of `AsyncClient`, without `await`.

    Args:
        url: Of the service, as `http://localhost:8000`.
        options: See `Options`.
    """

    def __init__(self, url: str, **options: Unpack[OptionArguments]) -> None:
        self._make = partial(AsyncClient, url, **options)
        self._start()

    def _start(self) -> None:
        self._own, self._process = self._make(), os.getpid()
        self._loop = asyncio.new_event_loop()
        self._thread = Thread(target=self._loop.run_forever, name="lowerbound", daemon=True)
        self._thread.start()

    @property
    def _client(self) -> AsyncClient:
        """The client of this process. Thread and connections stay with the parent at a fork, as of multiprocessing."""
        if self._process != os.getpid():
            self._start()
        return self._own

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections."""
        if self._loop.is_running():
            self._run(self._client.close())
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join()
            self._loop.close()

    def model(self) -> dict[str, Any]:
        """See `AsyncClient.model`."""
        return self._run(self._client.model())

    def score(self, rows: Any, *, progress: bool = False, **parameters: Unpack[ScoreParameters]) -> Any:
        """See `AsyncClient.score`."""
        return self._run(self._client.score(rows, progress=progress, **parameters))

    def encode(self, rows: Any, *, progress: bool = False, **parameters: Unpack[RowParameters]) -> Any:
        """See `AsyncClient.encode`."""
        return self._run(self._client.encode(rows, progress=progress, **parameters))

    def decode(self, latents: Any, *, draw: bool = False, seed: int | None = None, progress: bool = False) -> Any:
        """See `AsyncClient.decode`."""
        return self._run(self._client.decode(latents, draw=draw, seed=seed, progress=progress))

    def sample(
        self, n: int = 1, *, seed: int | None = None, temperature: float | None = None
    ) -> dict[str, np.ndarray[Any, Any]]:
        """See `AsyncClient.sample`."""
        return self._run(self._client.sample(n, seed=seed, temperature=temperature))

    def _run(self, work: Coroutine[Any, Any, T]) -> T:
        future = asyncio.run_coroutine_threadsafe(work, self._loop)
        try:
            return future.result()
        except BaseException:  # Ctrl-C too: requests under way end with the call.
            future.cancel()
            raise


def _table(response: httpx.Response) -> pa.Table:
    try:
        with pa.ipc.open_stream(response.content) as stream:
            return stream.read_all()
    except (pa.ArrowException, OSError) as error:  # A proxy's page, say.
        kind = response.headers.get("Content-Type", "nothing").partition(";")[0]
        raise _fault(response, f"{kind} where Arrow was asked for") from error


def _fault(response: httpx.Response, found: str) -> ServiceError:
    """The error of an answer that no service of this kind gives."""
    detail = f"{response.url.copy_with(query=None)} answers {found}; is a Lowerbound service there?"
    return ServiceError(detail, None, response.status_code, response.headers.get("X-Request-ID"))


def _renumber(answer: pa.Table, first_row: int) -> pa.Table:
    """The answer, the rows that `problem` names counted from the caller's first."""
    place = answer.schema.get_field_index("problem")
    if place < 0 or first_row == 0:
        return answer
    problems = [text and renumber(text, first_row) for text in answer.column(place).to_pylist()]
    return answer.set_column(place, "problem", pa.array(problems, pa.string()))

"""What a cluster's dashboard answers, said in a sentence, and logs that outlive a connection.

The dashboard here is a server of the tests', which speaks as Ray's does: tests/end_to_end/test_cluster.py has
real ones.
"""

import asyncio
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import aiohttp.web
import pytest
from ray.job_submission import JobDetails
from rich.console import Console

from distill.errors import InputError, RefusedError
from sweeps import jobs
from sweeps.capture import CapturedOutput, captured_output
from sweeps.jobs import Jobs, exit_code
from sweeps.space import SearchSpace, load_space
from sweeps.submission import Submission
from sweeps.terminal import SweepDisplay

# Ray's client says `ssl=None`, which aiohttp would have called otherwise.
pytestmark = pytest.mark.filterwarnings("ignore:ssl=None is deprecated")

LOG = "trial 0 started\ntrial 0 complete at 0.9000 after 3s: 1/2 done, best 0.9000 in trial 0\nthe end\n"


def job(number: int, study: str = "mine", **values: Any) -> dict[str, Any]:
    """A job as the dashboard tells of it."""
    return {
        "type": "SUBMISSION",
        "submission_id": f"{study}.{number}",
        "status": "RUNNING",
        "entrypoint": "",
        "start_time": 1000 * number,
        "metadata": {"study": study, "home": f"/shared/{number}"},
        **values,
    }


class Dashboard:
    """A server that tells of some jobs.

    Attributes:
        jobs: What it tells.
        cuts: How many of the next followers of a log it cuts off, each after two lines.
    """

    def __init__(self) -> None:
        self.jobs: list[dict[str, Any]] = []
        self.cuts = 0
        self.refusal: aiohttp.web.Response | None = None
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever)
        self._thread.start()
        self._runner = self._do(self._start())
        self.address = "http://{}:{}".format(*self._runner.addresses[0][:2])

    def close(self) -> None:
        self._do(self._runner.cleanup())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def _do(self, what: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(what, self._loop).result(timeout=30)

    async def _start(self) -> aiohttp.web.AppRunner:
        app = aiohttp.web.Application()
        app.router.add_get("/api/version", self._version)
        app.router.add_get("/api/jobs/", self._list)
        app.router.add_get("/api/jobs/{id}", self._info)
        app.router.add_get("/api/jobs/{id}/logs", self._log)
        app.router.add_get("/api/jobs/{id}/logs/tail", self._tail)
        runner = aiohttp.web.AppRunner(app, shutdown_timeout=1)
        await runner.setup()
        await aiohttp.web.TCPSite(runner, "127.0.0.1", 0).start()
        return runner

    async def _version(self, request: Any) -> aiohttp.web.Response:
        return self.refusal or aiohttp.web.json_response({"ray_version": "2.60.0"})

    async def _list(self, request: Any) -> aiohttp.web.Response:
        return aiohttp.web.json_response(self.jobs)

    async def _info(self, request: Any) -> aiohttp.web.Response:
        return aiohttp.web.json_response(
            next(job for job in self.jobs if job["submission_id"] == request.match_info["id"])
        )

    async def _log(self, request: Any) -> aiohttp.web.Response:
        return aiohttp.web.json_response({"logs": LOG})

    async def _tail(self, request: Any) -> aiohttp.web.WebSocketResponse:
        socket = aiohttp.web.WebSocketResponse()
        await socket.prepare(request)
        lines = LOG.splitlines(keepends=True)
        await socket.send_str("".join(lines[:2]))
        if self.cuts:
            self.cuts -= 1
            request.transport.abort()
            return socket
        await socket.send_str("".join(lines[2:]))
        self.jobs[0] |= {"status": "SUCCEEDED", "driver_exit_code": 0}
        await socket.close()
        return socket


@pytest.fixture
def dashboard(monkeypatch: pytest.MonkeyPatch) -> Iterator[Dashboard]:
    monkeypatch.setenv("RAY_API_SERVER_ADDRESS", "http://127.0.0.1:9")  # `Jobs` sets it, and wins over it
    monkeypatch.setattr(jobs, "RECONNECT_S", 0.05)
    dashboard = Dashboard()
    yield dashboard
    dashboard.close()


def test_a_token_that_lacks_or_is_wrong_is_told(dashboard: Dashboard) -> None:
    dashboard.refusal = aiohttp.web.Response(status=401, text="Unauthorized: Missing authentication token")
    with pytest.raises(RefusedError, match="wants a token: set RAY_AUTH_MODE=token"):
        Jobs(dashboard.address)
    dashboard.refusal = aiohttp.web.Response(status=403, text="Forbidden: Invalid authentication token")
    with pytest.raises(RefusedError, match="refuses the token: it must be the cluster's"):
        Jobs(dashboard.address)


@pytest.mark.parametrize(
    "answer", [{"status": 404}, {"status": 500}, {"text": "<html>a printer</html>"}, {"text": "{}"}]
)
def test_another_server_is_told_to_be_one(dashboard: Dashboard, answer: dict[str, Any]) -> None:
    dashboard.refusal = aiohttp.web.Response(**answer)
    with pytest.raises(RefusedError, match=rf"{dashboard.address}"):
        Jobs(dashboard.address)


def test_an_address_where_nothing_listens_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{free.getsockname()[1]}"
    with pytest.raises(RefusedError, match=f"no Ray dashboard answers at {address}: .*refused"):
        Jobs(address)


@pytest.mark.parametrize("address", ["head:8265", "ray://head:10001", "http://", "http://head:8265/api", ""])
def test_an_address_must_be_a_dashboards(address: str) -> None:
    with pytest.raises(InputError, match="--address must be a dashboard's, such as http://HEAD:8265, got"):
        Jobs(address)


def test_the_latest_job_of_a_study_counts(dashboard: Dashboard) -> None:
    dashboard.jobs = [job(2), job(1, status="STOPPED"), job(9, "other"), {**job(10), "metadata": None}]
    there = Jobs(dashboard.address)
    standing = there.standing("mine")
    assert (standing.job, standing.state, standing.home) == ("mine.2", "RUNNING", "/shared/2")
    assert (standing.trials, standing.best, standing.best_trial) == ("1/2", "0.9000", 0)
    with pytest.raises(InputError, match="has no job of a study 'none': it has those of mine, other"):
        there.latest("none")
    with pytest.raises(
        RefusedError, match=r"is being driven by job mine\.2: stop it first with `sweeps stop"
    ):
        there.submit(Submission(study="mine", space_yaml=None))


def test_a_resumed_study_stays_where_it_was_unless_told_otherwise(dashboard: Dashboard) -> None:
    dashboard.jobs = [job(1, status="STOPPED"), job(2, status="FAILED")]
    there = Jobs(dashboard.address)
    assert there.resumption("mine", home=None, tracking_uri=None).home == "/shared/2"
    assert there.resumption("mine", home="/other", tracking_uri=None).home == "/other"
    assert there.resumption("new", home=None, tracking_uri=None).home is None


def test_a_name_that_the_cluster_knows_is_numbered(dashboard: Dashboard) -> None:
    dashboard.jobs = [job(1), job(1, "mine-2")]
    there = Jobs(dashboard.address)
    assert [there.free_name(name) for name in ("mine", "other")] == ["mine-3", "other"]


@pytest.mark.parametrize("cuts", [0, 1, 3])
def test_a_log_is_followed_over_lost_connections_and_every_line_comes_once(
    dashboard: Dashboard, cuts: int
) -> None:
    dashboard.jobs, dashboard.cuts = [job(1)], cuts
    seen: list[str] = []
    ended = Jobs(dashboard.address).follow("mine.1", seen.append)
    assert "".join(seen) == LOG
    assert exit_code(ended) == 0


def test_a_cluster_that_stays_away_ends_the_following(
    dashboard: Dashboard, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jobs, "RECONNECTS", 2)
    dashboard.jobs, dashboard.cuts = [job(1)], 100
    with pytest.raises(RefusedError, match="is lost, and the sweep goes on if its cluster does"):
        Jobs(dashboard.address).follow("mine.1", lambda text: None)


@pytest.mark.parametrize(
    ("status", "driver_exit_code", "expected"),
    [("SUCCEEDED", 0, 0), ("FAILED", 4, 4), ("FAILED", 2, 2), ("STOPPED", None, 130), ("FAILED", None, 1)],
)
def test_a_followed_job_ends_with_its_sweeps_exit_code(
    status: str, driver_exit_code: int | None, expected: int
) -> None:
    details = JobDetails.model_validate(job(1, status=status, driver_exit_code=driver_exit_code))
    assert exit_code(details) == expected


def test_the_lines_that_are_read_are_those_that_a_sweep_prints(
    tmp_path: Path, dashboard: Dashboard, monkeypatch: pytest.MonkeyPatch
) -> None:
    space = load_space("quickstart")
    log = tmp_path / "log"
    with log.open("w") as out, captured_output(tmp_path / "aside") as captured:
        captured.out = out
        play(space, captured)
    monkeypatch.setitem(globals(), "LOG", log.read_text())
    dashboard.jobs = [job(1)]
    standing = Jobs(dashboard.address).standing("mine")
    assert (standing.trials, standing.best, standing.best_trial) == ("2/7", "0.7500", 0)


def play(space: SearchSpace, captured: CapturedOutput) -> None:
    """Tells of a sweep of which two trials are done."""
    display = SweepDisplay(space, captured, Console(file=captured.out), mode="plain")
    display.started(name="mine", num_trials=7, concurrent=1, tracking_uri="sqlite:///m.db", home="/runs")
    for number, value in enumerate((0.75, 0.5)):
        display.trial_started(number, space.first_point())
        display.trial_finished(number, "complete", value, 61.0)

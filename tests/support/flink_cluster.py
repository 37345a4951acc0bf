"""A Flink cluster of its own on the loopback: one job manager, and task managers that can be killed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import urllib.request
from pathlib import Path
from typing import Any

import yaml

from tests.support.gateways import HOST, wait_until
from tests.support.places import ROOT
from tests.support.ports import free_port

PATIENCE_S = 180.0  # Java on a busy machine


class FlinkCluster:
    """Started by `with`; `home` is the folder of the package pyflink, which holds a whole Flink."""

    def __init__(self, home: Path, folder: Path) -> None:
        self.rest_port = free_port()
        self._home = home
        self._folder = folder
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        (folder / "conf").mkdir()
        for file in (home / "conf").glob("log4j*.properties"):
            (folder / "conf" / file.name).write_text(file.read_text())
        settings = yaml.safe_load((home / "conf" / "config.yaml").read_text())
        settings["jobmanager"] |= {"rpc": {"address": HOST, "port": free_port()}, "bind-host": HOST}
        settings["jobmanager"]["memory"] = {"process": {"size": "900m"}}
        settings["taskmanager"] |= {"host": HOST, "bind-host": HOST, "numberOfTaskSlots": 1}
        settings["taskmanager"]["memory"] = {"process": {"size": "1100m"}}
        settings["rest"] = {"address": HOST, "bind-address": HOST, "port": self.rest_port}
        settings["heartbeat"] = {"interval": 1000, "timeout": 10_000}
        (folder / "conf" / "config.yaml").write_text(yaml.safe_dump(settings))

    def __enter__(self) -> FlinkCluster:
        try:
            self._start("jobmanager", "job-manager")
            wait_until(lambda: "taskmanagers" in self.ask("/overview"), "the job manager", PATIENCE_S)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        for name in self._processes:
            self.kill(name)

    @property
    def options(self) -> list[str]:
        """Return the options of `gateway fleet run` for a job on this cluster."""
        jars = ",".join(f"file://{jar}" for jar in (self._home / "opt").glob("flink-python-*.jar"))
        given = {
            "execution.target": "remote",
            "rest.address": HOST,
            "rest.port": self.rest_port,
            "pipeline.jars": jars,
        }
        return [f"--engine-option={name}={value}" for name, value in given.items()]

    def start_task_manager(self, name: str) -> None:
        """Start one more, until the cluster has it."""
        before = self.task_managers()
        self._start("taskmanager", name, "-D", f"taskmanager.resource-id={name}")
        wait_until(lambda: self.task_managers() > before, "the task manager", PATIENCE_S)

    def task_managers(self) -> int:
        """Return how many the job manager knows."""
        return len(self.ask("/taskmanagers").get("taskmanagers", ()))

    def job(self) -> dict[str, Any]:
        """Return the job, of which there is at most one; empty before it is there."""
        jobs = self.ask("/jobs").get("jobs", ())
        return self.ask(f"/jobs/{jobs[0]['id']}") if jobs else {}

    def records_written(self) -> int:
        """Return how many records the tasks of the job have passed on so far."""
        return sum(vertex["metrics"]["write-records"] for vertex in self.job().get("vertices", ()))

    def worker(self) -> str:
        """Return the name of a task manager that works for the job."""
        job = self.job()
        (vertex, *_) = job["vertices"]
        (subtask, *_) = self.ask(f"/jobs/{job['jid']}/vertices/{vertex['id']}")["subtasks"]
        return str(subtask["taskmanager-id"])

    def failures(self) -> list[dict[str, Any]]:
        """Return why the job was started again, once for each time."""
        job = self.job()
        found = self.ask(f"/jobs/{job['jid']}/exceptions")["exceptionHistory"]["entries"]
        return list(found)

    def kill(self, name: str) -> None:
        """`kill -9` of a process and of the Python workers that it has started."""
        process = self._processes[name]
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()

    def ask(self, path: str) -> dict[str, Any]:
        """Return an answer of the REST interface; empty where there is none."""
        try:
            with urllib.request.urlopen(f"http://{HOST}:{self.rest_port}{path}", timeout=10) as answer:
                found: dict[str, Any] = json.load(answer)
                return found
        except OSError:
            return {}

    def log(self) -> str:
        return "\n".join(path.read_text(errors="replace")[-3000:] for path in self._folder.glob("*.out"))

    def _start(self, what: str, name: str, *options: str) -> None:
        with (self._folder / f"{name}.out").open("wb") as log:
            self._processes[name] = subprocess.Popen(
                [str(self._home / "bin" / f"{what}.sh"), "start-foreground", *options],
                env=os.environ
                | {
                    "FLINK_CONF_DIR": str(self._folder / "conf"),
                    "FLINK_LOG_DIR": str(self._folder),
                    "PYTHONPATH": str(ROOT),
                },
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

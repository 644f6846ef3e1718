from __future__ import annotations

import json
import re

import pytest

from srpo_env import machine


def test_a_containers_limits_count_and_not_the_hosts_size(monkeypatch, tmp_path):
    (tmp_path / "cpu.max").write_text("50000 100000\n")
    (tmp_path / "memory.max").write_text("1073741824\n")
    monkeypatch.setattr(machine, "CGROUP_CPU_LIMIT", tmp_path / "cpu.max")
    monkeypatch.setattr(machine, "CGROUP_MEMORY_LIMIT", tmp_path / "memory.max")
    assert machine.usable_cores() == 0.5
    assert machine.usable_memory() == 2**30


def test_a_container_without_limits_has_what_the_host_has(monkeypatch, tmp_path):
    cores, memory = machine.usable_cores(), machine.usable_memory()
    (tmp_path / "cpu.max").write_text("max 100000\n")
    (tmp_path / "memory.max").write_text("max\n")
    monkeypatch.setattr(machine, "CGROUP_CPU_LIMIT", tmp_path / "cpu.max")
    monkeypatch.setattr(machine, "CGROUP_MEMORY_LIMIT", tmp_path / "memory.max")
    assert (machine.usable_cores(), machine.usable_memory()) == (cores, memory)


def test_the_processors_name_is_read_from_the_system(monkeypatch, tmp_path):
    (tmp_path / "cpuinfo").write_text("processor\t: 0\nmodel name\t: Abacus 9000\n")
    monkeypatch.setattr(machine, "CPU_INFO", tmp_path / "cpuinfo")
    assert machine.cpu_name() == "Abacus 9000"


def test_the_commit_is_that_of_the_packages_own_checkout_only(monkeypatch, tmp_path):
    assert machine.commit() is None or re.fullmatch(r"[0-9a-f]{7,}(\+changes)?", machine.commit())
    monkeypatch.setattr(machine, "__file__", str(tmp_path / "machine.py"))
    assert machine.commit() is None


@pytest.mark.libero
def test_a_machine_is_described_in_json(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    description = json.loads(json.dumps(machine.describe_machine()))
    assert description["cores"] > 0
    assert description["robosuite"] == "1.4.0"
    assert description["environment"]["OMP_NUM_THREADS"] == "3"

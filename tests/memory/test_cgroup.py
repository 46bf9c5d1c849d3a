"""`ssemiddleware.memory.cgroup`, with recorded trees of /proc and /sys/fs/cgroup, and with the real ones."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from ssemiddleware.memory.cgroup import CgroupMemory, Reading

MiB = 1024**2
GiB = 1024**3
MACHINE = 16 * GiB
NO_LIMIT_V1 = 9223372036854771712  # PAGE_COUNTER_MAX pages of 4 KiB
SYS = "sys/fs/cgroup"

# Lines as the kernel writes them, the first two of another file system.
OTHER_MOUNTS = """\
22 28 0:21 / /proc rw,nosuid,nodev,noexec,relatime shared:5 - proc proc rw
28 1 259:1 / / rw,relatime shared:1 master:7 - ext4 /dev/root rw,discard
"""
V2_MOUNT = "34 24 0:29 {root} /sys/fs/cgroup rw,nosuid,nodev,noexec,relatime shared:9 - cgroup2 cgroup2 rw,nsdelegate\n"
V1_MOUNT = "41 31 0:36 {root} /sys/fs/cgroup/memory rw,nosuid,nodev,noexec,relatime shared:17 - cgroup cgroup rw,memory\n"
V1_CPU_MOUNT = "39 31 0:34 {root} /sys/fs/cgroup/cpu,cpuacct rw,nosuid,relatime shared:15 - cgroup cgroup rw,cpu,cpuacct\n"

Files = dict[str, str]


def v2(
    group: str, usage: int, limit: object = "max", *, high: object = "max", inactive_file: int = 0, active_file: int = 0
) -> Files:
    directory = f"{SYS}/{group}".rstrip("/")
    return {
        f"{directory}/memory.max": f"{limit}\n",
        f"{directory}/memory.high": f"{high}\n",
        f"{directory}/memory.current": f"{usage}\n",
        f"{directory}/memory.stat": f"anon 1\nfile 2\ninactive_anon 3\nactive_anon 4\ninactive_file {inactive_file}\n"
        f"active_file {active_file}\nslab 5\n",
    }


def v1(group: str, usage: int, limit: int = NO_LIMIT_V1, *, hierarchical: int | None = None, inactive_file: int = 0) -> Files:
    directory = f"{SYS}/memory/{group}".rstrip("/")
    return {
        f"{directory}/memory.limit_in_bytes": f"{limit}\n",
        f"{directory}/memory.usage_in_bytes": f"{usage}\n",
        f"{directory}/memory.stat": (
            f"cache 1\nrss 2\ninactive_file 3\nhierarchical_memory_limit {hierarchical or limit}\n"
            f"hierarchical_memsw_limit {NO_LIMIT_V1}\ntotal_cache 4\ntotal_inactive_file {inactive_file}\n"
            "total_active_file 0\n"
        ),
    }


def process(cgroup: str, mountinfo: str) -> Files:
    return {"proc/self/cgroup": cgroup, "proc/self/mountinfo": OTHER_MOUNTS + mountinfo}


V2_ROOT = {
    f"{SYS}/memory.stat": "anon 1\ninactive_file 2\nactive_file 0\n",
    f"{SYS}/cgroup.controllers": "cpu io memory pids\n",
}  # no limits

DOCKER_V2_WITH_NAMESPACE = {
    **process("0::/\n", V2_MOUNT.format(root="/")),
    **v2("", 300 * MiB, 512 * MiB, inactive_file=100 * MiB),
}

DOCKER_V2_WITHOUT_NAMESPACE = {
    **process("0::/system.slice/docker-4b1c.scope\n", V2_MOUNT.format(root="/")),
    **V2_ROOT,
    **v2("system.slice", 9 * GiB),
    **v2("system.slice/docker-4b1c.scope", 200 * MiB, 512 * MiB),
}

DOCKER_V1_WITHOUT_NAMESPACE = {
    **process(
        "12:pids:/docker/4b1c\n9:memory:/docker/4b1c\n4:cpu,cpuacct:/docker/4b1c\n1:name=systemd:/docker/4b1c\n"
        "0::/system.slice/containerd.service\n",
        V1_CPU_MOUNT.format(root="/docker/4b1c") + V1_MOUNT.format(root="/docker/4b1c"),
    ),
    **v1("", 300 * MiB, 512 * MiB, inactive_file=100 * MiB),
}

DOCKER_V1_IN_A_LIMITED_SLICE_WITH_NAMESPACE = {
    **process("9:memory:/\n0::/\n", V1_MOUNT.format(root="/")),
    **v1("", 300 * MiB, hierarchical=1 * GiB),
}

POD = "kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod7f.slice"
KUBERNETES_V2 = {
    **process(f"0::/{POD}/cri-containerd-91.scope\n", V2_MOUNT.format(root="/")),
    **V2_ROOT,
    **v2("kubepods.slice", 6 * GiB, 15 * GiB),
    **v2("kubepods.slice/kubepods-burstable.slice", 5 * GiB),
    **v2(POD, 700 * MiB, 1 * GiB, inactive_file=50 * MiB),
    **v2(f"{POD}/cri-containerd-91.scope", 400 * MiB, 512 * MiB, inactive_file=30 * MiB),
}

CONTAINERD_V1_WITH_COLONS = {
    **process(
        "9:memory:/system.slice/containerd.service/kubepods-pod7f.slice:cri-containerd:6ef1\n",
        V1_MOUNT.format(root="/system.slice/containerd.service/kubepods-pod7f.slice:cri-containerd:6ef1"),
    ),
    **v1("", 300 * MiB, 512 * MiB),
}

SYSTEMD_SERVICE_V2 = {
    **process("0::/web.slice/web-shop.slice/shop.service\n", V2_MOUNT.format(root="/")),
    **V2_ROOT,
    **v2("web.slice", 1700 * MiB, 2 * GiB, inactive_file=20 * MiB),  # the fullest, through its other services
    **v2("web.slice/web-shop.slice", 500 * MiB),
    **v2("web.slice/web-shop.slice/shop.service", 400 * MiB, 1 * GiB),
}

WITHOUT_CONTROLLER_IN_THE_LEAF = {
    **process("0::/user.slice/app.scope\n", V2_MOUNT.format(root="/")),
    **V2_ROOT,
    **v2("user.slice", 1 * GiB, 2 * GiB),
    f"{SYS}/user.slice/app.scope/cgroup.procs": "17\n",
}

HYBRID = {
    **process(
        "9:memory:/system.slice/shop.service\n4:cpu,cpuacct:/\n1:name=systemd:/system.slice/shop.service\n"
        "0::/system.slice/shop.service\n",
        "35 25 0:30 / /sys/fs/cgroup/unified rw,nosuid shared:10 - cgroup2 cgroup2 rw,nsdelegate\n"
        "36 25 0:31 / /sys/fs/cgroup/systemd rw,nosuid shared:11 - cgroup cgroup rw,xattr,name=systemd\n"
        + V1_CPU_MOUNT.format(root="/")
        + V1_MOUNT.format(root="/"),
    ),
    f"{SYS}/unified/system.slice/shop.service/cgroup.procs": "17\n",
    f"{SYS}/unified/system.slice/shop.service/memory.pressure": "some avg10=0.00\n",
    **v1("", 3 * GiB),
    **v1("system.slice", 2 * GiB),
    **v1("system.slice/shop.service", 600 * MiB, 1 * GiB, inactive_file=88 * MiB),
}

ESCAPED = {
    **process(
        "0::/dev-disk\\x2dimage.slice/my shop\n",
        "34 24 0:29 /dev-disk\\134x2dimage.slice /mnt/control\\040groups rw - cgroup2 none rw\n",
    ),
    **{name.replace(SYS, "mnt/control groups"): text for name, text in v2("my shop", 300 * MiB, 512 * MiB).items()},
}

HOST_MOUNT_BESIDE_OUR_OWN = {  # a container with a namespace, and the host's /sys/fs/cgroup at /host
    **process(
        "9:memory:/\n",
        "90 31 0:36 /../.. /host rw - cgroup cgroup rw,memory\n" + V1_MOUNT.format(root="/"),
    ),
    **{name.replace(f"{SYS}/memory", "host"): text for name, text in v1("", 9 * GiB).items()},
    **v1("", 300 * MiB, 512 * MiB),
}

OUTER_MOUNT_AND_A_GROUP_BESIDE_THE_NAMESPACE = {
    **process("0::/../other/leaf\n", V2_MOUNT.format(root="/..")),
    **v2("other", 300 * MiB, 512 * MiB),
    **v2("other/leaf", 100 * MiB),
}

BIND_MOUNT_WITHOUT_THE_PATH = {
    **process("0::/system.slice/gone-from-here\n", V2_MOUNT.format(root="/")),
    **v2("", 300 * MiB, 512 * MiB),
}

TWO_MOUNTS = {  # docker run -v /sys/fs/cgroup:/host
    **process(
        "9:memory:/docker/4b1c\n",
        V1_MOUNT.format(root="/docker/4b1c") + "90 31 0:36 / /host rw - cgroup cgroup rw,memory\n",
    ),
    **v1("", 300 * MiB, 512 * MiB),
    **{name.replace(f"{SYS}/memory", "host"): text for name, text in v1("", 9 * GiB).items()},
    **{name.replace(f"{SYS}/memory", "host"): text for name, text in v1("docker", 900 * MiB, 1 * GiB).items()},
    **{name.replace(f"{SYS}/memory", "host"): text for name, text in v1("docker/4b1c", 300 * MiB, 512 * MiB).items()},
}

LIMITED = {
    "docker, version 2, with namespace": (DOCKER_V2_WITH_NAMESPACE, 200 * MiB, 512 * MiB),
    "docker, version 2, without namespace": (DOCKER_V2_WITHOUT_NAMESPACE, 200 * MiB, 512 * MiB),
    "docker, version 1, without namespace": (DOCKER_V1_WITHOUT_NAMESPACE, 200 * MiB, 512 * MiB),
    "docker, version 1, limited by a group that the namespace hides": (
        DOCKER_V1_IN_A_LIMITED_SLICE_WITH_NAMESPACE, 300 * MiB, 1 * GiB,
    ),
    "kubernetes, version 2, the container tightest": (KUBERNETES_V2, 370 * MiB, 512 * MiB),
    "kubernetes, version 2, the pod tightest": (
        KUBERNETES_V2 | v2(POD, 1000 * MiB, 1 * GiB, inactive_file=50 * MiB), 950 * MiB, 1 * GiB,
    ),
    "containerd, version 1, colons in the path": (CONTAINERD_V1_WITH_COLONS, 300 * MiB, 512 * MiB),
    "systemd, version 2, the slice tightest": (SYSTEMD_SERVICE_V2, 1680 * MiB, 2 * GiB),
    "version 2, no memory controller in the leaf": (WITHOUT_CONTROLLER_IN_THE_LEAF, 1 * GiB, 2 * GiB),
    "hybrid": (HYBRID, 512 * MiB, 1 * GiB),
    "escapes in the paths": (ESCAPED, 300 * MiB, 512 * MiB),
    "the host's mount beside our own": (HOST_MOUNT_BESIDE_OUR_OWN, 300 * MiB, 512 * MiB),
    "a group beside the namespace": (OUTER_MOUNT_AND_A_GROUP_BESIDE_THE_NAMESPACE, 300 * MiB, 512 * MiB),
    "a mount that lacks the path": (BIND_MOUNT_WITHOUT_THE_PATH, 300 * MiB, 512 * MiB),
    "two mounts, the second shows more ancestors": (TWO_MOUNTS, 900 * MiB, 1 * GiB),
    "memory.high below memory.max": (
        DOCKER_V2_WITH_NAMESPACE | v2("", 300 * MiB, 512 * MiB, high=400 * MiB), 300 * MiB, 400 * MiB,
    ),
    "memory.high above memory.max": (
        DOCKER_V2_WITH_NAMESPACE | v2("", 300 * MiB, 512 * MiB, high=600 * MiB), 300 * MiB, 512 * MiB,
    ),
    "memory.high alone": (DOCKER_V2_WITH_NAMESPACE | v2("", 300 * MiB, high=400 * MiB), 300 * MiB, 400 * MiB),
    "more inactive page cache than usage": (
        DOCKER_V2_WITH_NAMESPACE | v2("", 300 * MiB, 512 * MiB, inactive_file=301 * MiB), 0, 512 * MiB,
    ),
    "a file that was read twice": (
        DOCKER_V2_WITH_NAMESPACE | v2("", 300 * MiB, 512 * MiB, inactive_file=30 * MiB, active_file=200 * MiB),
        70 * MiB, 512 * MiB,
    ),
    "a limit one byte below the machine": (
        DOCKER_V2_WITH_NAMESPACE | v2("", 300 * MiB, MACHINE - 1), 300 * MiB, MACHINE - 1,
    ),
}  # fmt: skip

UNLIMITED = {
    "max everywhere": DOCKER_V2_WITHOUT_NAMESPACE | v2("system.slice/docker-4b1c.scope", 200 * MiB),
    "version 1's value for no limit": DOCKER_V1_WITHOUT_NAMESPACE | v1("", 300 * MiB),
    "version 1's value on old kernels": DOCKER_V1_WITHOUT_NAMESPACE | v1("", 300 * MiB, 2**63 - 1),
    "as much as the machine has": DOCKER_V2_WITH_NAMESPACE | v2("", 300 * MiB, MACHINE),
    "more than the machine has": HYBRID | v1("system.slice/shop.service", 600 * MiB, MACHINE + 4096),
}

NO_GROUP: dict[str, Files] = {
    "no /proc": {},
    "no cgroup mount": process("0::/\n", ""),
    "another controller alone": {**process("4:cpu,cpuacct:/\n", V1_MOUNT.format(root="/")), **v1("", 1, 2)},
    "version 1 without the memory controller": {
        **process("9:memory:/\n", V1_CPU_MOUNT.format(root="/")),
        **{name.replace("/memory/", "/cpu,cpuacct/"): text for name, text in v1("", 1, 2).items()},
    },
    "one version's group, the other's mount": {
        **process("9:memory:/\n", V2_MOUNT.format(root="/")),
        **{name.replace("/memory/", "/"): text for name, text in v1("", 1, 2).items()},
    },
    "version 2's root": {**process("0::/\n", V2_MOUNT.format(root="/")), **V2_ROOT},
    "a group outside what is mounted": {**process("0::/../other\n", V2_MOUNT.format(root="/")), **v2("", 1, 2)},
    "mounted outside our namespace": {**process("0::/\n", V2_MOUNT.format(root="/../..")), **v2("", 1, 2)},
    "a mount of another group": {**process("0::/here\n", V2_MOUNT.format(root="/there")), **v2("", 1, 2)},
    "a mount of a group with the same first letters": {**process("0::/ab/c\n", V2_MOUNT.format(root="/a")), **v2("", 1, 2)},
    "rubbish in /proc": {
        "proc/self/cgroup": "\x00\n:\n::\nmemory\n0::/\n", "proc/self/mountinfo": "\n - cgroup2\n1 2 - cgroup a memory\n",
    },
    "no memory.stat, as in gVisor": {
        name: text for name, text in DOCKER_V1_WITHOUT_NAMESPACE.items() if not name.endswith("memory.stat")
    },
}  # fmt: skip


def record(root: Path, files: Mapping[str, str]) -> Path:
    """Write *files* below *root*."""
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


def find(root: Path, files: Mapping[str, str]) -> CgroupMemory:
    found = CgroupMemory.find(record(root, files), machine=MACHINE)
    assert found is not None
    return found


@pytest.mark.parametrize(("files", "used", "limit"), LIMITED.values(), ids=LIMITED.keys())
def test_the_working_set_and_limit_of_the_tightest_group_are_read(tmp_path: Path, files: Files, used: int, limit: int) -> None:
    assert find(tmp_path, files).read() == Reading(used, limit)


@pytest.mark.parametrize("files", UNLIMITED.values(), ids=UNLIMITED.keys())
def test_a_limit_above_the_machine_s_memory_does_not_count(tmp_path: Path, files: Files) -> None:
    assert find(tmp_path, files).read() is None


@pytest.mark.parametrize("files", NO_GROUP.values(), ids=NO_GROUP.keys())
def test_no_group_is_found_where_none_can_be_read(tmp_path: Path, files: Files) -> None:
    assert CgroupMemory.find(record(tmp_path, files), machine=MACHINE) is None


def test_another_process_is_found_by_its_id(tmp_path: Path) -> None:
    files = {name.replace("/self/", "/17/"): text for name, text in DOCKER_V2_WITH_NAMESPACE.items()}
    found = CgroupMemory.find(record(tmp_path, files), pid=17, machine=MACHINE)
    assert found is not None
    assert found.read() == Reading(200 * MiB, 512 * MiB)


def test_a_list_of_mounts_longer_than_one_read_is_read_whole(tmp_path: Path) -> None:
    files = {**DOCKER_V2_WITH_NAMESPACE, **process("0::/\n", OTHER_MOUNTS * 1000 + V2_MOUNT.format(root="/"))}
    assert find(tmp_path, files).read() == Reading(200 * MiB, 512 * MiB)


def test_the_tightest_group_and_each_limit_may_change(tmp_path: Path) -> None:
    found = find(tmp_path, KUBERNETES_V2)
    leaf = f"{POD}/cri-containerd-91.scope"
    assert found.read() == Reading(370 * MiB, 512 * MiB)
    record(tmp_path, v2(leaf, 400 * MiB, 2 * GiB))
    assert found.read() == Reading(650 * MiB, 1 * GiB)
    record(tmp_path, v2("kubepods.slice/kubepods-burstable.slice", 5 * GiB, 6 * GiB))  # had none before
    assert found.read() == Reading(5 * GiB, 6 * GiB)
    for group in ("kubepods.slice", "kubepods.slice/kubepods-burstable.slice", POD, leaf):
        record(tmp_path, v2(group, 1 * GiB))
    assert found.read() is None


RUBBISH = ["", "\n", "many\n", "-1\n", "1_000\n", "٣\n", "1.5\n", "\x00\n", "1 2\n", "0x10\n"]


@pytest.mark.parametrize("text", RUBBISH)
@pytest.mark.parametrize("name", ["memory.max", "memory.high", "memory.current"])
def test_a_group_with_rubbish_is_skipped(tmp_path: Path, name: str, text: str) -> None:
    leaf = f"{SYS}/{POD}/cri-containerd-91.scope"
    found = find(tmp_path, KUBERNETES_V2 | {f"{leaf}/{name}": text})
    assert found.read() == Reading(650 * MiB, 1 * GiB)


@pytest.mark.parametrize("text", ["", "inactive_file\n", "inactive_file many\n", "total_inactive_file 5\n", "anon 5\n"])
def test_a_group_with_rubbish_in_memory_stat_is_skipped(tmp_path: Path, text: str) -> None:
    found = find(tmp_path, KUBERNETES_V2 | {f"{SYS}/{POD}/cri-containerd-91.scope/memory.stat": text})
    assert found.read() == Reading(650 * MiB, 1 * GiB)


def test_without_a_hierarchical_limit_version_1_s_own_limit_is_read(tmp_path: Path) -> None:
    files = DOCKER_V1_WITHOUT_NAMESPACE | {
        f"{SYS}/memory/memory.stat": "cache 1\ntotal_inactive_file 1048576\ntotal_active_file 0\n"
    }
    assert find(tmp_path, files).read() == Reading(299 * MiB, 512 * MiB)


def test_a_group_that_vanishes_is_skipped(tmp_path: Path) -> None:
    found = find(tmp_path, KUBERNETES_V2)
    for file in (tmp_path / SYS / POD / "cri-containerd-91.scope").iterdir():
        file.unlink()
    assert found.read() == Reading(650 * MiB, 1 * GiB)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("memory.max", None, r"No such file or directory: '.*/memory\.max'"),
        ("memory.stat", None, r"No such file or directory: '.*/memory\.stat'"),
        ("memory.current", "many", r"not a number of bytes: 'many'.*/memory\.current'"),
    ],
)
def test_when_no_group_can_be_read_the_error_names_the_file(tmp_path: Path, name: str, text: str | None, message: str) -> None:
    found = find(tmp_path, DOCKER_V2_WITH_NAMESPACE)
    file = tmp_path / SYS / name
    file.unlink() if text is None else file.write_text(text)
    with pytest.raises(OSError, match=message) as failure:
        found.read()
    assert failure.value.filename == str(file)


def test_an_error_while_reading_names_the_file_too(tmp_path: Path) -> None:
    found = find(tmp_path, DOCKER_V2_WITH_NAMESPACE)
    file = tmp_path / SYS / "memory.current"
    file.unlink()
    file.mkdir()  # can be opened, not read
    with pytest.raises(IsADirectoryError) as failure:
        found.read()
    assert failure.value.filename == str(file)


def test_a_reading_knows_its_share() -> None:
    assert Reading(256, 1024).share == 0.25
    assert Reading(0, 0).share > 1  # a limit of 0 is always reached


def open_files() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="no /proc/self/fd here")
def test_no_file_stays_open(tmp_path: Path) -> None:
    found = find(tmp_path, KUBERNETES_V2 | {f"{SYS}/{POD}/memory.current": "many"})
    before = open_files()
    for _ in range(10):
        found.read()
    assert open_files() <= before


def real_mount() -> tuple[int, Path]:
    """Return the version and the mount point of the real memory groups, or skip."""
    for version, mount_point, limit in ((1, "/sys/fs/cgroup/memory", "limit_in_bytes"), (2, "/sys/fs/cgroup", "stat")):
        if Path(mount_point, f"memory.{limit}").exists():
            return version, Path(mount_point)
    pytest.skip("no memory groups are mounted below /sys/fs/cgroup")


@contextmanager
def real_groups() -> Iterator[tuple[int, Path, Path]]:
    """Make a group in a group, and remove both at the end."""
    version, mount_point = real_mount()
    outer = mount_point / f"ssemiddleware-test-{os.getpid()}"
    inner = outer / "inner"
    try:
        try:
            inner.mkdir(parents=True)
            if version == 2:
                (outer / "cgroup.subtree_control").write_text("+memory")
        except OSError as error:
            pytest.skip(f"no group can be made: {error}")
        yield version, outer, inner
    finally:
        for group in (inner, outer):
            deadline = time.monotonic() + 10
            while group.exists():
                with suppress(OSError):  # busy until its last process has been reaped
                    group.rmdir()
                assert time.monotonic() < deadline, f"{group} is left behind"


def run(code: str, *arguments: object) -> str:
    """Return what *code* prints in an interpreter of its own."""
    python = [sys.executable, "-c", code, *map(str, arguments)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    child = subprocess.run(python, env=environment, capture_output=True, text=True, timeout=60, check=False)
    assert child.returncode == 0, child.stderr
    return child.stdout


IN_THE_GROUP = """
import json, os, sys
from ssemiddleware.memory import MemoryGauge

inner, limit_file, page_cache = sys.argv[1:]
with open(inner + "/cgroup.procs", "w") as processes:
    processes.write(str(os.getpid()))
now = 0.0
gauge = MemoryGauge(clock=lambda: now)
found = []

def note():
    global now
    now += 1
    found.append([gauge.source, *gauge.read()])

note()
held = b"x" * (64 << 20)
note()
with open(page_cache, "wb") as file:
    for _ in range(96):
        file.write(b"x" * (1 << 20))
    os.fsync(file.fileno())
note()
with open(limit_file, "w") as limit:
    limit.write(str(192 << 20))
note()
print(json.dumps(found))
"""


def test_a_process_in_real_nested_groups_reads_the_tightest(tmp_path: Path) -> None:
    with real_groups() as (version, outer, inner):
        name, usage_name = (
            ("memory.limit_in_bytes", "memory.usage_in_bytes") if version == 1 else ("memory.max", "memory.current")
        )
        (outer / name).write_text(str(256 * MiB))
        (inner / name).write_text(str(1 * GiB))
        file = tmp_path / "file"
        first, holding, caching, narrowed = json.loads(run(IN_THE_GROUP, inner, outer / name, file))
        usage, statistics = int((outer / usage_name).read_text()), (outer / "memory.stat").read_text()
    assert [reading[0] for reading in (first, holding, caching, narrowed)] == ["cgroup"] * 4
    assert [reading[2] // MiB for reading in (first, holding, caching, narrowed)] == [256, 256, 256, 192]
    assert 63 * MiB < holding[1] - first[1] < 80 * MiB
    if max(map(int, re.findall(r"^(?:total_)?shmem (\d+)", statistics, re.MULTILINE))) > 90 * MiB:
        pytest.skip("the rest needs a temporary directory on a disk")
    assert usage > 90 * MiB, "the file is not in the page cache"
    assert caching[1] - holding[1] < 32 * MiB, "the page cache of a file counts as used"


IN_A_NAMESPACE = """
import os, subprocess, sys
with open(sys.argv[1] + "/cgroup.procs", "w") as processes:
    processes.write(str(os.getpid()))
mount_and_read = (
    "mount -t cgroup -o memory cgroup " + sys.argv[2] + " && cat /proc/self/cgroup && exec " + sys.executable + ' -c "'
    "from ssemiddleware.memory import MemoryGauge; gauge = MemoryGauge(); print(gauge.source, gauge.read().limit)" + '"'
)
os.execvp("unshare", ["unshare", "--cgroup", "--mount", "sh", "-c", mount_and_read])
"""


def test_a_process_in_a_real_namespace_reads_the_limit_of_a_hidden_ancestor(tmp_path: Path) -> None:
    with real_groups() as (version, outer, inner):
        if version == 2:
            pytest.skip("version 2 does not show the limits of ancestors that a namespace hides")
        if not shutil.which("unshare") or subprocess.run(["unshare", "--cgroup", "--mount", "true"], check=False).returncode:
            pytest.skip("no cgroup namespace can be made")
        (outer / "memory.limit_in_bytes").write_text(str(256 * MiB))
        *memberships, reading = run(IN_A_NAMESPACE, inner, tmp_path).splitlines()
    assert any(line.endswith(":memory:/") for line in memberships)
    assert reading == f"cgroup {256 * MiB}"

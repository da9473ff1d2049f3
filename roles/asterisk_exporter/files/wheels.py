"""Gather a lock's wheels, and one built from source, into one archive, on the controller.

The archive holds a folder `wheels` with binary wheels for one Python and one machine;
`pip install --no-index --find-links wheels` installs from it without a package index.
It is named after a digest of everything that goes into it, so it is made once:
a second call with the same source, lock, Python and machine only prints its name.

Prints one JSON object: digest, archive, and created (true: it was made, or would be).
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

from packaging.requirements import Requirement

# Debian 11, the oldest target, has glibc 2.31; pip must be told each tag that runs there.
PLATFORM_TAGS = (
    *(f"manylinux_2_{minor}" for minor in range(31, 16, -1)),
    "manylinux2014",
    "manylinux2010",
    "manylinux1",
    "linux",
)
EPOCH = "1767225600"  # any fixed time makes the wheel reproducible
FORMAT = "1"  # raise when the layout of the archive changes
NAME = "asterisk-exporter"


def digest_of(source: Path | None, lock: Path, python: str, machine: str) -> str:
    """Return a digest of all that goes into the archive.

    README and licence are left out: an edit there must not restart an exporter.
    """
    digest = hashlib.sha256(f"{FORMAT} {python} {machine}".encode())
    files = [lock]
    if source is not None:
        package = source / "exporter" / "asterisk_exporter"
        code = [p for p in package.rglob("*") if p.is_file() and "__pycache__" not in p.parts]
        files = [source / "pyproject.toml", lock, *sorted(code)]
    for path in files:
        name = path.name if path == lock or source is None else path.relative_to(source).as_posix()
        digest.update(f"\0{name}\0{hashlib.sha256(path.read_bytes()).hexdigest()}".encode())
    return digest.hexdigest()[:16]


def requirements_for(lock: Path, python: str, machine: str) -> str:
    """Return the lines of the lock that hold for the target, without their markers.

    pip evaluates markers for the Python that runs it, not for the one it downloads for,
    so they are evaluated here.
    """
    environment = {
        "implementation_name": "cpython",
        "os_name": "posix",
        "platform_machine": machine,
        "platform_python_implementation": "CPython",
        "platform_system": "Linux",
        "python_full_version": f"{python}.0",
        "python_version": python,
        "sys_platform": "linux",
    }
    lines = []
    for block in lock.read_text().replace("\\\n", " ").splitlines():
        text, *hashes = block.split("#")[0].split(" --hash=")
        if not text.strip():
            continue
        requirement = Requirement(text.strip())
        if requirement.marker is None or requirement.marker.evaluate(environment):
            pins = "".join(f" --hash={value.strip()}" for value in hashes)
            lines.append(f"{requirement.name}{requirement.specifier}{pins}\n")
    return "".join(lines)


def run(*arguments: str) -> None:
    """Run pip of this Python; on failure show what it said and stop."""
    done = subprocess.run(  # noqa: S603 - our own arguments, no shell
        [sys.executable, "-m", "pip", "--disable-pip-version-check", *arguments],
        env={**os.environ, "SOURCE_DATE_EPOCH": EPOCH},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        sys.exit(f"pip {arguments[0]} failed on the controller:\n{done.stdout}\n{done.stderr}")


def build(source: Path | None, lock: Path, python: str, machine: str, archive: Path) -> None:
    """Build and download into a folder of its own, then put the finished archive in place."""
    archive.parent.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(prefix=".building-", dir=archive.parent))
    try:
        wheels = work / "wheels"
        if source is not None:
            run("wheel", "--no-deps", "--no-build-isolation", f"--wheel-dir={wheels}", str(source))
        requirements = work / "requirements.txt"
        requirements.write_text(requirements_for(lock, python, machine))
        run(
            "download",
            "--no-deps",
            "--only-binary=:all:",
            "--implementation=cp",
            f"--python-version={python}",
            *(f"--platform={tag}_{machine}" for tag in PLATFORM_TAGS),
            f"--requirement={requirements}",
            f"--dest={wheels}",
        )
        finished = work / archive.name
        with tarfile.open(finished, "w") as tar:
            for path in sorted(wheels.iterdir()):
                info = tar.gettarinfo(path, f"wheels/{path.name}")
                info.uid = info.gid = 0
                info.uname = info.gname = "root"
                info.mode = 0o644
                info.mtime = int(EPOCH)
                with path.open("rb") as stream:
                    tar.addfile(info, stream)
        finished.replace(archive)
    finally:
        shutil.rmtree(work, ignore_errors=True)


def main() -> None:
    """Read the command line, make the archive if it is missing, print where it is."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--source", type=Path, help="the repository, when the exporter is in it")
    parser.add_argument("--name", default=NAME, help="what the archive's name begins with")
    parser.add_argument("--lock", type=Path, required=True, help="versions of the dependencies")
    parser.add_argument("--cache", type=Path, required=True, help="folder for finished archives")
    parser.add_argument("--python", required=True, help="Python of the target, such as 3.14")
    parser.add_argument("--machine", required=True, help="machine of the target, such as x86_64")
    parser.add_argument("--dry-run", action="store_true", help="make nothing")
    options = parser.parse_args()
    digest = digest_of(options.source, options.lock, options.python, options.machine)
    archive = options.cache.resolve() / f"{options.name}-{digest}.tar"
    missing = not archive.exists()
    if missing and not options.dry_run:
        source = options.source and options.source.resolve()
        build(source, options.lock, options.python, options.machine, archive)
    print(json.dumps({"digest": digest, "archive": str(archive), "created": missing}))


if __name__ == "__main__":
    main()

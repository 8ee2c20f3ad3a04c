"""Small file systems of their own, to be filled to the last block or inode."""

import os
import shutil
import subprocess

import pytest

MIB = 1 << 20


class Disk:
    """A small file system of its own."""

    def __init__(self, path, image):
        self.path, self._image = path, image
        self._ballast = path / "ballast"

    def mount(self, kind, options):
        """Mount it, or skip the test where that can't be done."""
        self.path.mkdir()
        if kind == "ext4":
            with self._image.open("wb") as file:
                file.truncate(24 * MIB)
            make = ["mkfs.ext4", "-q", "-F", "-m", "0", *options, self._image]
            options = "loop"
            if subprocess.run(make, capture_output=True).returncode:
                pytest.skip("no ext4 can be made here")
        source = self._image if kind == "ext4" else "tmpfs"
        done = subprocess.run(
            ["mount", "-t", kind, "-o", options, source, self.path], capture_output=True, text=True
        )
        if done.returncode:
            pytest.skip(f"no {kind} can be mounted here: {done.stderr.strip()}")

    def remount(self, options):
        subprocess.run(["mount", "-o", f"remount,{options}", self.path], check=True, capture_output=True)

    def fill(self):
        """Take all room, to the last block."""
        fd = os.open(self._ballast, os.O_RDWR | os.O_CREAT)
        end, step = os.fstat(fd).st_size, MIB
        while step >= 4096:
            try:
                os.posix_fallocate(fd, end, step)
                end += step
            except OSError:
                step //= 2
        os.close(fd)

    def fill_inodes(self):
        """Take all inodes."""
        hoard = self.path / "hoard"
        hoard.mkdir(exist_ok=True)
        for number in range(1_000_000):
            try:
                (hoard / str(number)).touch()
            except OSError:
                break
        assert os.statvfs(self.path).f_ffree == 0

    def free(self):
        """Give all of it back."""
        self._ballast.unlink(missing_ok=True)
        shutil.rmtree(self.path / "hoard", ignore_errors=True)

    def unmount(self):
        """False: something was still open there."""
        if subprocess.run(["umount", self.path], capture_output=True).returncode == 0:
            return True
        subprocess.run(["umount", "--lazy", self.path], check=True)
        return False

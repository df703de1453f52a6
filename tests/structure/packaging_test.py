#!/usr/bin/env python3
"""Holds the recipes of scripts/packaging to what they repeat: packaging_test.py ROOT"""
import pathlib
import re
import sys
import types
import unittest

ROOT = pathlib.Path(sys.argv[1])

# Debian packages of scripts/dependencies.txt as Spack calls them. None: what Spack does not need, and why.
SPACK_NAMES = {
    "g++": "cxx", "cmake": "cmake", "pkg-config": "pkgconfig", "libopenmpi-dev": "mpi", "openmpi-bin": "mpi",
    "libucx-dev": "ucx", "libnuma-dev": "numactl", "libhwloc-dev": "hwloc", "libboost-dev": "boost",
    "libboost-system-dev": "boost", "libboost-program-options-dev": "boost", "libyaml-cpp-dev": "yaml-cpp",
    "nlohmann-json3-dev": "nlohmann-json", "libsimdjson-dev": "simdjson", "libpcre2-dev": "pcre2", "libicu-dev": "icu4c",
    "libfmt-dev": "fmt", "libedit-dev": "libedit", "libcurl4-openssl-dev": "curl", "libzip-dev": "libzip",
    "libpng-dev": "libpng", "python3-dev": "python", "python3": "python", "python3-yaml": "py-pyyaml",
    "python3-jinja2": "py-jinja2",
    "ninja-build": None,  # CMakePackage brings its generator
    "ccache": None,  # for those who build again and again
    "binutils": None,  # comes with the compiler
    "libdnnl-dev": None,  # scripts/bench_peers.py compares with it
    "libgtest-dev": None, "libgmock-dev": None,  # the recipe builds no tests
    "libjs-markdown-it": None, "libjs-highlight.js": None, "libjs-katex": None, "fonts-katex": None,  # see its head
    "python3-venv": None,  # a part of Spack's python
    "ca-certificates": None,  # for downloads
}
ONLY_SPACK = {"c", "gzip"}  # Debian has them anyway

# What the Debian package need not name itself.
IMPLIED = {"python3": "python3-jinja2 depends on it", "python3-venv": "build/venv is a checkout's"}


def read(path):
    return (ROOT / path).read_text(encoding="utf-8")


def apt_packages(group):
    return re.findall(rf"^{group} apt (\S+)$", read("scripts/dependencies.txt"), re.M)


def version():
    return re.search(r"^project\(ktmpi VERSION (\S+)", read("CMakeLists.txt"), re.M)[1]


def spack_recipe():
    """Runs the recipe against a stand-in for Spack's language: its versions and what it depends on."""
    said = {"version": [], "depends_on": []}
    package = types.ModuleType("spack.package")
    for directive in ("license", "version", "requires", "depends_on"):
        setattr(package, directive, lambda *words, to=directive, **_: said.setdefault(to, []).append(words[0]))
    package.CMakePackage = object
    package.run_before = lambda _: lambda function: function
    modules = {"spack": types.ModuleType("spack"), "spack.package": package}
    sys.modules.update(modules)
    exec(compile(read("scripts/packaging/spack/ktmpi/package.py"), "package.py", "exec"), {})
    return said["version"], [re.split(r"[@ ]", spec)[0] for spec in said["depends_on"]]


class Packaging(unittest.TestCase):
    def test_spack_is_told_the_version(self):
        versions, _ = spack_recipe()

        self.assertEqual(versions, [version()])
        self.assertEqual(re.findall(r"ktmpi@(\S+)", read("scripts/packaging/spack/ktmpi/package.py")), [version()])

    def test_spack_is_told_every_dependency_and_no_other(self):
        needed = apt_packages("build") + apt_packages("run")
        _, depends_on = spack_recipe()

        self.assertGreater(len(needed), 30)
        self.assertEqual(sorted(set(needed) - set(SPACK_NAMES)), [], "SPACK_NAMES says what Spack calls it")
        self.assertEqual(sorted(set(SPACK_NAMES) - set(needed)), [], "scripts/dependencies.txt has it no more")
        wanted = {SPACK_NAMES[name] for name in needed} - {None} | ONLY_SPACK
        self.assertEqual(sorted(depends_on), sorted(wanted))

    def test_the_debian_package_names_what_no_library_says(self):
        depends = re.search(r'CPACK_DEBIAN_PACKAGE_DEPENDS "(.*)"', read("scripts/packaging/debian/package.cmake"))[1]

        self.assertEqual(sorted(depends.split(", ") + list(IMPLIED)), sorted(apt_packages("run")))

    def test_the_image_has_the_tools_that_make_the_package(self):
        stage = read("scripts/packaging/ktmpi.def").split("%post", 1)[1].split("\nBootstrap", 1)[0]
        installed = re.search(r"apt-get install -y --no-install-recommends (.*)", stage)[1].split()
        hint = re.search(r"try: apt-get install (.*)\"", read("scripts/package"))[1].split()

        self.assertEqual(set(installed), {"bash", *hint})
        self.assertIn("    scripts/package\n", stage)


if __name__ == "__main__":
    unittest.main(argv=sys.argv[:1])

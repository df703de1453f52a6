# A Spack recipe that builds a checkout:
#
#   spack repo create ~/ktmpi-repo ktmpi && cp -r scripts/packaging/spack/ktmpi ~/ktmpi-repo/packages/
#   spack repo add ~/ktmpi-repo
#   spack dev-build -d . ktmpi@0.2.0
#
# dev-build fetches nothing: XGrammar's source has to lie in build/deps/xgrammar, where `scripts/setup build` puts it,
# and in /usr/share/javascript, or where KTMPI_JAVASCRIPT says, what runtime/serve/http/page/page.cmake names.
import pathlib

from spack.package import *


class Ktmpi(CMakePackage):
    """Server of large mixture-of-experts language models on CPUs over MPI."""

    license("Apache-2.0")

    version("0.2.0")

    requires("target=x86_64_v3:", msg="its kernels begin with AVX2")

    depends_on("c", type="build")
    depends_on("cxx", type="build")
    depends_on("cmake@3.22:", type="build")
    depends_on("pkgconfig", type="build")
    depends_on("gzip", type="build")
    depends_on("mpi")
    depends_on("boost@1.74: +program_options+system")
    depends_on("curl@7.85: tls=openssl")
    depends_on("fmt@9:")
    depends_on("hwloc@2:")
    depends_on("icu4c")
    depends_on("libedit")
    depends_on("libpng")
    depends_on("libzip")
    depends_on("nlohmann-json@3.11:")
    depends_on("numactl")
    depends_on("pcre2 +jit")
    depends_on("simdjson")
    depends_on("ucx")
    depends_on("yaml-cpp@0.7:")
    depends_on("python@3.9:", type=("build", "link", "run"))
    depends_on("py-pyyaml", type="build")  # what docs/openapi.yaml is built in with
    depends_on("py-jinja2", type=("build", "run"))

    @property
    def templates_python(self):
        return pathlib.Path(self.prefix.libexec, "ktmpi", "python")

    def cmake_args(self):
        return [
            self.define("KTMPI_TESTS", False),
            self.define("KTMPI_PYTHON", self.templates_python / "bin" / "python3"),
        ]

    @run_before("cmake")
    def make_templates_python(self):
        """The embedded interpreter is isolated and reads no PYTHONPATH: an environment of its own shows it Jinja2."""
        python = self.spec["python"].command
        python("-m", "venv", "--without-pip", str(self.templates_python))
        ask = "import pathlib, %s as m; print(pathlib.Path(m.__file__).parents[1])"
        folders = [python("-c", ask % name, output=str) for name in ("jinja2", "markupsafe", "yaml")]
        packages = next(self.templates_python.glob("lib*/python3*/site-packages"))
        (packages / "jinja2.pth").write_text("".join(folders))

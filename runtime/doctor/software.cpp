#include <dlfcn.h>
#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <filesystem>
#include <set>
#include <sstream>

#include "kernels/device.h"
#include "kernels/device_fault.h"
#include "kernels/nccl.h"
#include "runtime/base/error.h"
#include "runtime/base/units.h"
#include "runtime/client/http_call.h"
#include "runtime/config/hub_cache.h"
#include "runtime/doctor/checks.h"
#include "runtime/doctor/system_files.h"
#include "runtime/serve/http/port.h"
#include "runtime/text/templates/chat_template.h"

namespace kt {
namespace {

namespace fs = std::filesystem;

// Where PATH has a program; "" if it has none.
fs::path find_program(const Site& site, const std::string& name) {
  std::istringstream folders(site.variable("PATH"));
  for (std::string folder; std::getline(folders, folder, ':');)
    if (const fs::path path = fs::path(folder) / name; !folder.empty() && access(path.c_str(), X_OK) == 0) return path;
  return {};
}

// What a program prints.
std::string output_of(const fs::path& program, const std::string& arguments) {
  std::string command = "'";
  for (const char c : program.string()) command += c == '\'' ? "'\\''" : std::string(1, c);
  command += "' " + arguments + " 2>/dev/null";
  std::string text;
  std::FILE* pipe = popen(command.c_str(), "r");
  if (!pipe) return text;
  char piece[4096];
  for (size_t n = 0; (n = std::fread(piece, 1, sizeof piece, pipe)) > 0;) text.append(piece, n);
  pclose(pipe);
  return text;
}

std::string first_line(const std::string& text) { return text.substr(0, text.find('\n')); }

// "Open MPI v4.1.4" -> "4.1.4".
std::string last_word(const std::string& text) {
  std::string word = text.substr(text.find_last_of(' ') + 1);
  return word.starts_with('v') ? word.substr(1) : word;
}

// Whether PATH has the launcher that fits.
Finding check_mpirun(const Site& site) {
  const fs::path program = find_program(site, "mpirun");
  if (program.empty())
    return note("PATH has no mpirun: more ranks than one take a launcher",
                "apt-get install openmpi-bin, or srun --mpi=pmix");
  const std::string said = first_line(output_of(program, "--version"));
  if (said.find("Open MPI") == std::string::npos || last_word(said) != last_word(site.mpi_library))
    return problem(fmt::format("{} is {}, this program has {}: every process would be rank 0", program.string(),
                               said.empty() ? "unknown" : "\"" + said + "\"", site.mpi_library),
                   "the mpirun of that library, first in PATH");
  return ok(fmt::format("{}, of the same version", program.string()));
}

bool may_run_as_root(const Site& site) {
  return geteuid() != 0 ||
         (!site.variable("OMPI_ALLOW_RUN_AS_ROOT").empty() && !site.variable("OMPI_ALLOW_RUN_AS_ROOT_CONFIRM").empty());
}

std::string ucx_version() {
  void* library = dlopen("libucp.so.0", RTLD_LAZY | RTLD_LOCAL);
  if (!library) return {};
  const auto version = reinterpret_cast<const char* (*)()>(dlsym(library, "ucp_get_version_string"));
  return version ? version() : "of an unknown version";
}

// "#      Transport: tcp" of each.
std::string ucx_transports(const Site& site) {
  const fs::path program = find_program(site, "ucx_info");
  if (program.empty()) return "ucx_info, which lists its transports, is not in PATH";
  std::set<std::string> names;
  std::istringstream text(output_of(program, "-d"));
  constexpr std::string_view kKey = "Transport: ";
  for (std::string line; std::getline(text, line);)
    if (const size_t at = line.find(kKey); at != std::string::npos) names.insert(line.substr(at + kKey.size()));
  return fmt::format("transports {}", fmt::join(names, ", "));
}

// A path that begins at the root of the site.
fs::path below(const fs::path& root, const fs::path& path) { return root == "/" ? path : root / path.relative_path(); }

// Of the interfaces that a variable names those that this machine does not have. UCX adds ":PORT" to RDMA devices, Open
// MPI takes networks ("10.0.0.0/8") too.
Findings check_interfaces(const Site& site) {
  std::vector<std::string> here = names_in(site.root / "sys/class/net");
  if (here.empty()) return {};
  for (std::string& device : names_in(site.root / "sys/class/infiniband")) here.push_back(std::move(device));
  Findings findings;
  for (const std::string variable : {"UCX_NET_DEVICES", "OMPI_MCA_btl_tcp_if_include"}) {
    std::istringstream list(site.variable(variable));
    std::string absent;
    for (std::string name; std::getline(list, name, ',');) {
      if (name == "all" || name.find_first_of("/*^") != name.npos) continue;
      name.resize(std::min(name.find(':'), name.size()));
      if (!name.empty() && std::find(here.begin(), here.end(), name) == here.end())
        absent += (absent.empty() ? "" : ", ") + name;
    }
    if (absent.empty()) continue;
    const bool by_ucx = site.run.transport == "ucx" || (site.run.transport == "auto" && site.machines > 1);
    const bool used = variable != "UCX_NET_DEVICES" || by_ucx;
    const std::string found = fmt::format("{} names {}, which this machine does not have", variable, absent);
    const std::string advice = fmt::format("one that reaches the other machines; here are {}", fmt::join(here, ", "));
    findings.push_back(used ? problem(found, advice) : note(found, advice));
  }
  return findings;
}

std::string answering_server(const std::string& host, int port) {
  const std::string address = host == "0.0.0.0" || host == "::" || host == "localhost" ? "127.0.0.1" : host;
  const std::string name = address.find(':') == address.npos ? address : "[" + address + "]";  // IPv6
  const HttpAnswer answer = fetch({.url = fmt::format("http://{}:{}", name, port)}, "/metrics", {}, 2);
  return answer.body.find("ktmpi_") != std::string::npos ? "a ktmpi server" : "";
}

}  // namespace

Findings check_mpi(const Site& site) {
  const Launcher launcher = find_launcher(site);
  Findings findings;
  if (launcher.name.empty()) {
    findings.push_back(ok(fmt::format("{}; started without a launcher: one rank", site.mpi_library)));
    findings.push_back(check_mpirun(site));
    if (!may_run_as_root(site))
      findings.push_back(note("mpirun refuses root", ". scripts/mpi_environment.sh, on one machine; or another user"));
  } else if (!launcher.is_ours && launcher.ranks > 1) {
    findings.push_back(note(fmt::format("{}; started by {} with {} ranks, which Open MPI may not find",
                                        site.mpi_library, launcher.name, launcher.ranks),
                            "Open MPI's mpirun, or srun --mpi=pmix"));
  } else {
    findings.push_back(ok(fmt::format("{}; started by {}", site.mpi_library, launcher.name)));
  }
  return findings;
}

Findings check_network(const Site& site) {
  std::string devices;
  bool active = false;
  const fs::path folder = site.root / "sys/class/infiniband";
  for (const std::string& device : names_in(folder)) {
    devices += (devices.empty() ? "" : ", ") + device;
    for (const std::string& port : names_in(folder / device / "ports"))
      active = active ||
               read_line(folder / device / "ports" / port / "state").value_or("").find("ACTIVE") != std::string::npos;
  }
  Findings findings;
  const std::string version = site.is_here() ? ucx_version() : "";
  if (devices.empty())
    findings.push_back(ok("no RDMA devices: machines speak TCP"));
  else if (!active)
    findings.push_back(
        note(fmt::format("RDMA devices {}, no port of which is active", devices), "look at cables and ibstat"));
  else
    findings.push_back(ok(fmt::format("RDMA devices {}", devices)));
  if (!version.empty())  // a process with MPI should start no other
    findings.push_back(
        ok(fmt::format("UCX {}{}", version, find_launcher(site).name.empty() ? "; " + ucx_transports(site) : "")));
  else if (active)
    findings.push_back(note("RDMA devices, and no UCX by which Open MPI uses them", "apt-get install libucx0"));
  for (Finding& f : check_interfaces(site)) findings.push_back(std::move(f));
  return findings;
}

Finding check_nccl() {
  try {
    return ok("NCCL " + Nccl::version() + " adds between GPUs");
  } catch (const DeviceFault& e) {
    return note(e.what(),
                "a libnccl.so.2 that KTMPI_NCCL_LIBRARY names (PyPI: nvidia-nccl-cu13); without it the host adds");
  }
}

Findings check_gpus(const Site& site) {
  Findings findings;
  bool built = false;
  for (const DeviceKind& kind : device_kinds()) {
    if (!kind.list) continue;
    built = true;
    const DevicesHere here = kind.list();
    for (const DeviceHere& device : here.devices)
      findings.push_back(ok(fmt::format("{} {}: {}, {:.1f} GB free", kind.name, device.index, device.name,
                                        gb(kind.available_bytes(device.index)))));
    if (!here.why_none.empty() || here.devices.empty())
      findings.push_back(note(fmt::format("{}: {}", kind.name, here.why_none.empty() ? "no device" : here.why_none),
                              "device cpu; or a driver, or a build, that fits the GPU"));
    if (here.devices.size() > 1) findings.push_back(check_nccl());
  }
  if (built) return findings;
  if (names_in(site.root / "proc/driver/nvidia/gpus").empty())
    return {ok("none, and this program is built without them")};
  return {
      note("this machine has NVIDIA GPUs, this program is built without them", "scripts/build cuda, and that program")};
}

Findings check_chat_engine(const Site&) {
  try {
    if (render_template("{{ 1 + 1 }}", "{}") == "2") return {ok("Python and Jinja2 render chat templates")};
  } catch (const Error& e) {
    return {problem_of(e.what(), "scripts/setup run installs both")};
  }
  return {problem("Jinja2 does not render {{ 1 + 1 }} as 2", "apt-get install --reinstall python3-jinja2")};
}

Findings check_hub_cache(const Site& site) {
  const fs::path folder = below(site.root, hub_cache([&](const char* name) { return site.variable(name); }));
  std::error_code error;
  const fs::space_info space = fs::space(folder, error);
  if (error)
    return {ok(fmt::format("Hugging Face's folder {} is not there; --model takes any folder", folder.string()))};
  int models = 0, parts = 0;
  for (const std::string& name : names_in(folder)) {
    if (!name.starts_with("models--")) continue;
    ++models;
    for (const std::string& blob : names_in(folder / name / "blobs")) parts += blob.ends_with(".incomplete");
  }
  const std::string what = fmt::format("{} has {} model{}; {:.0f} GB are free", folder.string(), models,
                                       models == 1 ? "" : "s", gb(space.available));
  if (parts == 0) return {ok(what)};
  return {note(fmt::format("{}; {} of their files are not complete", what, parts), "repeat that download")};
}

Findings check_port(const Site& site) {
  const std::string& host = site.run.host;
  const int port = site.run.port;
  try {
    check_can_listen(host, port);
  } catch (const Error& e) {
    const std::string who = e.exit_code() == kExitPort ? answering_server(host, port) : "";
    if (!who.empty())
      return {
          note(fmt::format("port {} of {}: {} answers there", port, host, who), "another --port, for a second one")};
    return {problem_of(e.what(), "another --port")};
  }
  return {ok(port == 0 ? fmt::format("{} has a free port", host) : fmt::format("port {} of {} is free", port, host))};
}

}  // namespace kt

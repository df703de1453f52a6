#pragma once

#include <map>
#include <string>

#include "runtime/doctor/finding.h"
#include "runtime/doctor/site.h"
#include "runtime/doctor/system_files.h"

namespace kt {

// One function for each area. None changes anything; what they throw is a problem of its own.

Findings check_kernels(const Site& site);        // the table of kernels, and better ones
Findings check_cores(const Site& site);          // and what else keeps them busy
Findings check_numa(const Site& site);           // nodes, their memory, whether memory goes where it is asked for
Findings check_clock(const Site& site);          // who sets the processors' frequency
Findings check_memory(const Site& site);         // available, and control groups
Findings check_huge_pages(const Site& site);     // allowed, and granted
Findings check_bandwidth(const Site& site);      // takes about two seconds
Findings check_limits(const Site& site);         // of the process
Findings check_shared_memory(const Site& site);  // what ranks of one machine share
Findings check_mpi(const Site& site);
Findings check_network(const Site& site);  // UCX and RDMA
Findings check_gpus(const Site& site);
Findings check_chat_engine(const Site& site);  // Python and Jinja2
Findings check_hub_cache(const Site& site);    // Hugging Face's folder
Findings check_port(const Site& site);

// Of site.run.model:
Findings check_config(const Site& site);
Findings check_files(const Site& site);
Findings check_fit(const Site& site);  // its bytes against this machine's memory, and numbers of ranks
Findings check_tokenizer(const Site& site);
Findings check_template(const Site& site);

// "open files" -> "1024" and others of the process.
std::map<std::string, std::string> limits_of(const Site& site);

// Bytes that ranks on this machine may take, by all that limits them.
int64_t memory_left(const Site& site);

// What the table of kernels is chosen from.
Findings kernel_findings(const Processor& processor, const std::vector<std::string>& available,
                         const std::string& chosen);

}  // namespace kt

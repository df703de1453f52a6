#include "launcher/number_list.h"

#include <sstream>

#include "runtime/base/error.h"

namespace kt {

std::vector<int> number_list(std::string_view option, const std::string& list, int least) {
  std::vector<int> result;
  std::istringstream words(list);
  for (std::string word; std::getline(words, word, ',');) {
    const bool digits = !word.empty() && word.size() < 9 && word.find_first_not_of("0123456789") == std::string::npos;
    if (!digits || std::stoi(word) < least)
      fail(kExitUsage, "{}: expected numbers of at least {}, comma-separated, found '{}'", option, least, word);
    result.push_back(std::stoi(word));
  }
  return result;
}

}  // namespace kt

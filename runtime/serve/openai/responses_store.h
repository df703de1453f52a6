#pragma once

#include <cstddef>
#include <list>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <unordered_map>
#include <vector>

#include "runtime/serve/json.h"

namespace kt {

// A response that its client may come back to, and what was asked. Both as JSON: that is what they weigh.
struct StoredResponse {
  std::string id, previous;  // of the response that it goes on from; "": none
  std::string owner;         // whose key asked, and may come back
  std::string input;         // the request's items, a list
  std::string response;      // the response object
  bool in_progress = false;
};

// Responses in bounded memory; those that nobody has come back to for longest are forgotten first. Any thread. Others'
// responses are as good as absent.
class ResponseStore {
 public:
  explicit ResponseStore(size_t max_bytes) : max_bytes_(max_bytes) {}

  void put(StoredResponse response);  // in the place of one with the same id
  std::shared_ptr<const StoredResponse> find(const std::string& id, const std::string& owner);
  bool erase(const std::string& id, const std::string& owner);

  // All items up to and with the output of response `id`, oldest first. Throws BadRequest for "previous_response_id"
  // when it, or a response that it goes on from, is not here.
  Json history(const std::string& id, const std::string& owner);

  // The item of some response with this id.
  std::optional<Json> item(const std::string& id, const std::string& owner);

 private:
  struct Entry {
    std::shared_ptr<const StoredResponse> response;
    std::vector<std::string> items;  // their ids
    size_t bytes = 0;
    std::list<std::string>::iterator age;
  };

  std::shared_ptr<const StoredResponse> touch(const std::string& id, const std::string& owner);
  void remove(const std::string& id);

  const size_t max_bytes_;
  std::mutex mutex_;
  std::unordered_map<std::string, Entry> entries_;
  std::unordered_map<std::string, std::string> response_of_;  // item id -> response id
  std::list<std::string> ages_;                               // ids, the one used last in front
  size_t bytes_ = 0;
};

// The items of a stored response: what was asked, then what was answered.
Json items_of(const StoredResponse& response);

}  // namespace kt

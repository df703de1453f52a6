#include "runtime/serve/unsupported.h"

#include <fmt/format.h>

#include <algorithm>
#include <span>

#include "runtime/serve/errors.h"

namespace kt {
namespace {

struct Member {
  std::string_view name;
  std::string_view neutral = "[]";  // JSON list of values that ask for nothing, beside null, false and what is empty
  std::string_view instead = "leave it out";
  bool empty_asks = false;  // {} is a demand too
};

constexpr std::string_view kForm = "use \"response_format\", \"json_schema\", \"regex\" or \"ebnf\"";
constexpr std::string_view kTools = "use \"tools\" and \"tool_choice\"";

// From the requests of OpenAI, vLLM, SGLang and their relatives.
constexpr Member kMembers[] = {
    // the form of the answer
    {"guided_json", "[]", kForm, true},
    {"guided_regex", "[]", kForm},
    {"guided_choice", "[]", kForm},
    {"guided_grammar", "[]", kForm},
    {"structured_outputs", "[]", kForm},
    {"grammar", "[]", kForm},
    {"functions", "[]", kTools},
    {"function_call", R"(["none", "auto"])", kTools},
    // which tokens it is made of
    {"use_beam_search"},
    {"length_penalty", "[1]"},
    {"allowed_token_ids"},
    {"bad_words"},
    {"custom_logit_processor"},
    {"custom_params"},
    {"logits_processors"},
    {"vllm_xargs"},
    {"watermarking"},
    {"repetition_detection"},
    {"thinking_token_budget", "[-1]"},
    {"thinking_budget", "[-1]"},
    {"max_thinking_tokens", "[-1]"},
    {"lora_path", "[[null]]"},
    {"lora_id", "[[null]]"},
    // what it is to bring along
    {"prompt_logprobs", "[]",
     "use \"echo\" and \"logprobs\" of /v1/completions, or \"logprob_start_len\" of /generate"},
    {"logprob_token_ids"},
    {"token_ids_logprob"},
    {"return_tokens_as_token_ids"},
    {"return_token_ids", "[]", "/generate answers with \"output_ids\""},
    {"return_prompt_token_ids", "[]", "use /tokenize"},
    {"return_prompt_text", "[]", "use /apply-template"},
    {"return_meta_info"},
    {"return_hidden_states"},
    {"return_routed_experts"},
    {"return_indexer_topk"},
    {"return_cached_tokens_details"},
    {"return_entropy"},
    {"return_sampling_mask"},
    {"return_flat_raw_top_logprobs"},
    // what it is an answer to
    {"input_embeds"},
    {"prompt_embeds"},
    {"positional_embed_overrides"},
    {"image_data"},
    {"video_data"},
    {"audio_data"},
    {"audio"},
    {"modalities", R"([["text"]])"},
    {"session_params"},
    {"web_search_options", "[]", "leave it out", true},
    {"mcp_servers"},
    {"bootstrap_host"},
    {"bootstrap_room"},
    {"kv_transfer_params"},
    {"ec_transfer_params"},
};

constexpr Member kChatMembers[] = {
    {"echo", "[]", "use /v1/completions"},
    {"input_ids", "[]", "use /generate"},
    {"documents", "[]", "put them into a message"},
    {"chat_template", "[]", "start the server with --chat-template"},
    {"task"},
    {"add_special_tokens", "[]", "the chat template prints those that the model wants"},
};

bool asks_for_nothing(const Json& value, const Member& member) {
  if (value == false) return true;
  if (value.is_string() && value.get_ref<const std::string&>().empty()) return true;
  if (value.is_structured() && value.empty()) return !member.empty_asks;
  const Json neutral = Json::parse(member.neutral);
  return std::find(neutral.begin(), neutral.end(), value) != neutral.end();
}

void refuse(const Fields& fields, std::span<const Member> members) {
  for (const Member& member : members) {
    const Json* value = fields.find(member.name);
    if (!value || asks_for_nothing(*value, member)) continue;
    const std::string path = fields.path(member.name);
    throw BadRequest(path, fmt::format("{}: this server cannot do that; {}", path, member.instead), "unsupported");
  }
}

}  // namespace

void refuse_unsupported(const Fields& fields) { refuse(fields, kMembers); }
void refuse_unsupported_in_chat(const Fields& fields) { refuse(fields, kChatMembers); }

}  // namespace kt

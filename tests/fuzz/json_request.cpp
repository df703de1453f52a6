// A body, at every path that takes one: a job or an error that is a value.
#include <cstdint>
#include <string_view>

#include "runtime/serve/anthropic/anthropic.h"
#include "runtime/serve/openai/openai_chat.h"
#include "runtime/serve/openai/openai_completions.h"
#include "runtime/serve/openai/responses.h"
#include "runtime/serve/sglang/text_endpoints.h"
#include "tests/serve/fakes.h"

namespace {

class PlainTemplate : public kt::ChatTemplate {
 public:
  std::string render(std::string_view messages, std::string_view tools, std::string_view kwargs) const override {
    return std::string(messages).append(tools).append(kwargs);
  }
};

kt::ServedModel make_model() {
  static const kt::FakeTokenizer tokenizer;
  static const PlainTemplate chat_template;
  kt::ServedModel model;
  model.name.push_back('m');  // g++ 12 warns of an assigned literal
  model.max_context = 4096;
  model.vocab = kt::kFakeVocab;
  model.eos = {kt::kFakeEos};
  model.tokenizer = &tokenizer;
  model.chat_template = &chat_template;
  model.reasoning = kt::find_reasoning_format("qwen3");
  model.tools = kt::find_tool_format("qwen3_coder");
  model.compile_grammar = [](const std::string&, std::stop_token) { return nullptr; };
  return model;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static const kt::ServedModel model = make_model();
  const std::string_view body(reinterpret_cast<const char*>(data), size);
  kt::parse_chat(body, model);
  kt::parse_completions(body, model);
  kt::parse_messages(body, model);
  kt::count_tokens(body, model);
  kt::ResponseStore store(1 << 20);
  kt::parse_response_request(body, model, {store, "", model.max_context});
  kt::tokenize(body, model);
  kt::detokenize(body, model);
  kt::apply_template(body, model);
  return 0;
}

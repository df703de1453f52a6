// Templates run in an embedded Python with Debian's Jinja2: exactly the engine that they were written for. All of
// CPython's API is in this file.

#define PY_SSIZE_T_CLEAN  // "s#" takes Py_ssize_t
#include <Python.h>

// Python.h must come first (it sets feature macros).
#include "runtime/text/templates/chat_template.h"

#include <fmt/format.h>

#include <fstream>
#include <iterator>
#include <nlohmann/json.hpp>
#include <optional>
#include <utility>

#include "runtime/base/error.h"
#include "runtime/text/templates/chat_template_python.h"
#include "runtime/text/templates/deepseek_template.h"

namespace kt {
namespace {

namespace fs = std::filesystem;

// An owned reference; made and dropped with the GIL held.
struct Drop {
  void operator()(PyObject* object) const { Py_XDECREF(object); }
};
using Object = std::unique_ptr<PyObject, Drop>;

class Gil {
 public:
  Gil() : state_(PyGILState_Ensure()) {}
  ~Gil() { PyGILState_Release(state_); }
  Gil(const Gil&) = delete;

 private:
  PyGILState_STATE state_;
};

std::string text_of(PyObject* object) {
  const Object text(PyObject_Str(object));
  Py_ssize_t size = 0;
  const char* bytes = text ? PyUnicode_AsUTF8AndSize(text.get(), &size) : nullptr;
  if (bytes) return {bytes, static_cast<size_t>(size)};
  PyErr_Clear();
  return {};
}

// Takes the pending exception's message; its type's name when it has none.
std::string take_error() {
  PyObject *type = nullptr, *value = nullptr, *trace = nullptr;
  PyErr_Fetch(&type, &value, &trace);
  PyErr_NormalizeException(&type, &value, &trace);
  const Object owned_type(type), owned_value(value), owned_trace(trace);
  const std::string message = value ? text_of(value) : std::string();
  if (!message.empty()) return message;
  return type ? reinterpret_cast<PyTypeObject*>(type)->tp_name : "unknown Python error";
}

// The interpreter and the functions of kHelpers. There can be one per process; it is started by the first use and ends
// with the process, since other threads may still hold templates.
class Python {
 public:
  static const Python& get() {
    static const Python python;
    return python;
  }

  PyObject* compile_template = nullptr;
  PyObject* render = nullptr;
  PyObject* render_once = nullptr;
  PyObject* traits = nullptr;

 private:
  Python() {
    if (!Py_IsInitialized()) start();
    const Gil gil;
    const Object globals(PyDict_New());
    PyDict_SetItemString(globals.get(), "__builtins__", PyEval_GetBuiltins());
    PyDict_SetItemString(globals.get(), "__name__", Object(PyUnicode_FromString("ktmpi_chat_template")).get());
    const Object done(PyRun_String(kHelpers, Py_file_input, globals.get(), globals.get()));
    if (!done)
      fail(kExitUsage, "chat templates need Jinja2 for {}: {}; try: apt-get install python3-jinja2", KTMPI_PYTHON,
           take_error());
    compile_template = take(globals, "compile_template");
    render = take(globals, "render");
    render_once = take(globals, "render_once");
    traits = take(globals, "traits");
  }

  // Isolated: no environment variables, no user packages, no signal handlers. The program's name leads Python to its
  // library; without it the first python3 on PATH would, which may be another one.
  static void start() {
    PyConfig config;
    PyConfig_InitIsolatedConfig(&config);
    PyStatus status = PyConfig_SetBytesString(&config, &config.program_name, KTMPI_PYTHON);
    if (!PyStatus_Exception(status)) status = Py_InitializeFromConfig(&config);
    PyConfig_Clear(&config);
    if (PyStatus_Exception(status))
      fail(kExitUsage, "chat templates need {}, which does not start: {}", KTMPI_PYTHON,
           status.err_msg ? status.err_msg : "unknown reason");
    PyEval_SaveThread();  // whoever renders takes the GIL
  }

  static PyObject* take(const Object& globals, const char* name) {
    PyObject* function = PyDict_GetItemString(globals.get(), name);
    Py_XINCREF(function);
    return function;
  }
};

// The bytes that a render function returned, or its error.
std::string rendered(const Object& result) {
  char* bytes = nullptr;
  Py_ssize_t size = 0;
  if (!result || PyBytes_AsStringAndSize(result.get(), &bytes, &size) != 0) throw TemplateError(take_error());
  return {bytes, static_cast<size_t>(size)};
}

Py_ssize_t length(std::string_view text) { return static_cast<Py_ssize_t>(text.size()); }

// "s#" takes a null pointer for None.
const char* data(std::string_view text) { return text.data() ? text.data() : ""; }

// A compiled template. Any thread may destroy it.
class Compiled {
 public:
  // Throws TemplateError.
  explicit Compiled(std::string_view text) {
    const Python& python = Python::get();
    const Gil gil;
    template_ = PyObject_CallFunction(python.compile_template, "s#", data(text), length(text));
    if (!template_) throw TemplateError(take_error());
  }
  Compiled(Compiled&& other) noexcept : template_(std::exchange(other.template_, nullptr)) {}
  ~Compiled() {
    if (!template_) return;
    const Gil gil;
    Py_DECREF(template_);
  }

  PyObject* get() const { return template_; }

 private:
  PyObject* template_ = nullptr;
};

TemplateTraits traits_of(const Compiled& compiled, const std::string& variables) {
  const Gil gil;
  const Object found(
      PyObject_CallFunction(Python::get().traits, "Os#", compiled.get(), data(variables), length(variables)));
  int system = 0, needs_user = 0, parts = 0;
  if (!found || !PyArg_ParseTuple(found.get(), "ipp", &system, &needs_user, &parts)) throw TemplateError(take_error());
  return {
      .system = static_cast<TemplateTraits::System>(system), .needs_user = needs_user != 0, .text_parts = parts != 0};
}

struct TemplateTexts {
  std::string where;                    // for messages
  std::string text;                     // the template
  std::optional<std::string> tool_use;  // the one for requests with tools, where a model has two
};

class JinjaTemplate : public ChatTemplate {
 public:
  JinjaTemplate(const TemplateTexts& texts, std::string variables)
      : default_(texts.text),
        variables_(std::move(variables)),
        // Kimi's tokenizer sorts the keys of tools before it renders. Its templates print the tools in a turn of the
        // role tool_declare; no other family has that word, and it is there with or without a model's folder.
        sorts_tools_(texts.text.find("tool_declare") != std::string::npos) {
    if (texts.tool_use) tool_use_.emplace(*texts.tool_use);
    traits_ = traits_of(default_, variables_);
  }

  TemplateTraits traits() const override { return traits_; }

  std::string render(std::string_view messages, std::string_view tools, std::string_view kwargs) const override {
    const bool has_tools = !tools.empty() && tools != "null";
    const Compiled& chosen = has_tools && tool_use_ ? *tool_use_ : default_;
    const Gil gil;
    const Object result(PyObject_CallFunction(Python::get().render, "Os#s#s#s#i", chosen.get(), data(variables_),
                                              length(variables_), data(messages), length(messages), data(tools),
                                              length(tools), data(kwargs), length(kwargs), int{sorts_tools_}));
    return rendered(result);
  }

 private:
  Compiled default_;
  std::optional<Compiled> tool_use_;
  std::string variables_;  // JSON object: the special tokens
  bool sorts_tools_;
  TemplateTraits traits_;
};

std::string read_text(const fs::path& file, ExitCode code) {
  std::ifstream in(file, std::ios::binary);
  std::string text{std::istreambuf_iterator<char>(in), {}};
  if (!in) fail(code, "{}: cannot be read", file.string());
  return text;
}

nlohmann::json read_tokenizer_config(const fs::path& model) {
  const fs::path file = model / "tokenizer_config.json";
  if (model.empty() || !fs::exists(file)) return nlohmann::json::object();
  nlohmann::json config = nlohmann::json::parse(read_text(file, kExitModel), nullptr, false);
  if (!config.is_object()) fail(kExitModel, "{}: not a JSON object", file.string());
  return config;
}

// bos_token, eos_token, pad_token, image_token, ...: strings, or objects that hold the text as "content".
nlohmann::json special_tokens(const nlohmann::json& config) {
  nlohmann::json tokens = nlohmann::json::object();
  for (const auto& [key, value] : config.items()) {
    if (!key.ends_with("_token")) continue;
    if (value.is_string()) tokens[key] = value;
    if (value.is_object() && value.contains("content") && value["content"].is_string()) tokens[key] = value["content"];
  }
  return tokens;
}

// One template, or a list of {"name", "template"}.
TemplateTexts texts_of_config(const nlohmann::json& field, const std::string& where) {
  if (field.is_string()) return {where, field.get<std::string>(), std::nullopt};
  if (!field.is_array()) fail(kExitModel, "{}: a string or a list is expected", where);
  TemplateTexts texts{where, "", std::nullopt};
  bool found = false;
  for (const auto& entry : field) {
    if (!entry.is_object() || !entry.contains("name") || !entry.contains("template") || !entry["template"].is_string())
      fail(kExitModel, "{}: each entry needs a name and a template", where);
    if (entry["name"] == "default") {
      texts.text = entry["template"];
      found = true;
    }
    if (entry["name"] == "tool_use") texts.tool_use = entry["template"].get<std::string>();
  }
  if (!found) fail(kExitModel, "{}: no template has the name \"default\"", where);
  return texts;
}

bool has_template(const fs::path& model, const nlohmann::json& config) {
  return fs::exists(model / "chat_template.jinja") || config.contains("chat_template");
}

TemplateTexts find_texts(const fs::path& model, std::string_view file_or_name, const nlohmann::json& config) {
  if (!file_or_name.empty()) {
    const fs::path file(file_or_name);
    if (!fs::is_regular_file(file))
      fail(kExitUsage,
           "--chat-template {}: there is no such file, and no built-in template of this name (built in: {}, {})",
           file_or_name, kDeepseekTemplate, kSpecialeTemplate);
    return {file.string(), read_text(file, kExitUsage), std::nullopt};
  }
  if (const fs::path file = model / "chat_template.jinja"; fs::exists(file))
    return {file.string(), read_text(file, kExitModel), std::nullopt};
  if (config.contains("chat_template"))
    return texts_of_config(config["chat_template"], (model / "tokenizer_config.json").string() + ": chat_template");
  fail(kExitModel,
       "{}: neither chat_template.jinja nor chat_template in tokenizer_config.json; give a template with "
       "--chat-template",
       model.string());
}

}  // namespace

std::unique_ptr<ChatTemplate> load_chat_template(const fs::path& model, std::string_view file_or_name) {
  if (file_or_name == kDeepseekTemplate || file_or_name == kSpecialeTemplate)
    return load_deepseek_template(model, file_or_name);
  const nlohmann::json config = read_tokenizer_config(model);
  if (file_or_name.empty() && !has_template(model, config) && uses_deepseek_template(model))
    return load_deepseek_template(model, "");
  const TemplateTexts texts = find_texts(model, file_or_name, config);
  try {
    return std::make_unique<JinjaTemplate>(texts, special_tokens(config).dump());
  } catch (const TemplateError& error) {
    fail(file_or_name.empty() ? kExitModel : kExitUsage, "{}: the template cannot be compiled: {}", texts.where,
         error.what());
  }
}

std::string render_template(std::string_view template_text, std::string_view context) {
  const Python& python = Python::get();
  const Gil gil;
  const Object result(PyObject_CallFunction(python.render_once, "s#s#", data(template_text), length(template_text),
                                            data(context), length(context)));
  return rendered(result);
}

}  // namespace kt

# xgrammar's C++ core, a static library from the sources that scripts/setup unpacks. Its own CMake file wants its Python
# binding, -flto and -Werror; what it would compile is one list of files. Headers are used in runtime/text/grammars/grammar.cpp
# and, that of its automata, in runtime/text/answers/stop_automaton.cpp.
set(xgrammar_home ${PROJECT_SOURCE_DIR}/build/deps/xgrammar)
if(NOT EXISTS ${xgrammar_home}/cpp/grammar_compiler.cc)
  message(FATAL_ERROR "${xgrammar_home}: xgrammar's sources are not there; run scripts/setup build")
endif()

file(GLOB sources ${xgrammar_home}/cpp/*.cc ${xgrammar_home}/cpp/support/*.cc ${xgrammar_home}/cpp/converter_ext/*.cc)

# Corrections to xgrammar 0.2.8. A file is written once, and only where it has changed, so that a second configuration
# compiles nothing.
function(mend file what from to)
  if(NOT file IN_LIST mended)
    file(READ ${xgrammar_home}/cpp/${file} text_of_${file})
    set(mended ${mended} ${file} PARENT_SCOPE)
  endif()
  string(REPLACE "${from}" "${to}" new "${text_of_${file}}")
  if(new STREQUAL text_of_${file})
    message(FATAL_ERROR "xgrammar's ${file}: ${what}: no longer where this file mends them")
  endif()
  set(text_of_${file} "${new}" PARENT_SCOPE)
endfunction()

# Control characters in strings with minLength or maxLength are no JSON.
set(any_but_ends "{{'\"', '\"'}, {'\\\\', '\\\\'}, {'\\r', '\\r'}, {'\\n', '\\n'}}, true);")
mend(json_schema_converter.cc "the characters of bounded strings" "AddCharacterClass(${any_but_ends}"
  "AddCharacterClass({{0, 0x1f}, {'\"', '\"'}, {'\\\\', '\\\\'}}, true);")

# White space between two marks of JSON: none, one space, or a new line and its indentation. With more, models that write
# nothing else never come to an end.
mend(json_schema_converter.cc "bounded white space" [[
  return Repeat(
      "whitespace",
      builder_.AddCharacterClass(elements),
      0,
      static_cast<int32_t>(*max_whitespace_cnt_)
  );]] [[
  if (!whitespace_expr_id_.has_value()) {
    int32_t indentation = Repeat(
        "indentation",
        builder_.AddCharacterClass({{' ', ' '}, {'\t', '\t'}}),
        0,
        static_cast<int32_t>(*max_whitespace_cnt_)
    );
    whitespace_expr_id_ = RuleRef(builder_.AddRuleWithHint(
        "whitespace", Choice({Empty(), ByteString(" "), Sequence({ByteString("\n"), indentation})})
    ));
  }
  return *whitespace_expr_id_;]])

# Characters are those that UTF-8 has: no surrogates, no overlong forms, nothing beyond U+10FFFF. Nor are surrogates
# escaped without their other half.
mend(fsm_builder.cc "the ranges of characters" [[
  // Ensure max and min are valid unicode value.]] [[
  static constexpr uint32_t kCharacters[][2] = {
      {0, 0x7F}, {0xC280, 0xDFBF}, {0xE0A080, 0xED9FBF}, {0xEE8080, 0xEFBFBF}, {0xF0908080, 0xF48FBFBF}
  };
  for (const auto& range : kCharacters) {
    uint32_t low = std::max(min, range[0]), high = std::min(max, range[1]);
    if (low <= high) AddSameLengthCharacterRange(fsm, from, to, low, high);
  }
  return;
  // Ensure max and min are valid unicode value.]])
mend(json_schema_converter.cc "the escapes of strings" [[
  int32_t unicode_escape = Sequence(
      {ByteString("u"),
       hexadecimal_character,
       hexadecimal_character,
       hexadecimal_character,
       hexadecimal_character}
  );]] [[
  int32_t hex = hexadecimal_character;
  int32_t d = builder_.AddCharacterClass({{'D', 'D'}, {'d', 'd'}});
  int32_t not_d = builder_.AddCharacterClass({{'A', 'C'}, {'E', 'F'}, {'a', 'c'}, {'e', 'f'}, {'0', '9'}});
  int32_t below = builder_.AddCharacterClass({{'0', '7'}});
  int32_t high = builder_.AddCharacterClass({{'8', '9'}, {'A', 'B'}, {'a', 'b'}});
  int32_t low = builder_.AddCharacterClass({{'C', 'F'}, {'c', 'f'}});
  int32_t unicode_escape = Choice(
      {Sequence({ByteString("u"), not_d, hex, hex, hex}),
       Sequence({ByteString("u"), d, below, hex, hex}),
       Sequence({ByteString("u"), d, high, hex, hex, ByteString("\\u"), d, low, hex, hex})}
  );]])

# Numbers that a double can hold.
mend(json_schema_converter.cc "the exponents of numbers" [[
            Choice({Empty(), builder_.AddCharacterClass({{'+', '+'}, {'-', '-'}})}),
            one_or_more_digits}]] [[
            Choice({Empty(), builder_.AddCharacterClass({{'+', '+'}, {'-', '-'}})}),
            Repeat(rule_name + "_exponent", builder_.AddCharacterClass({{'0', '9'}}), 1, 2)}]])

# Patterns come as expressions of what stands between the quotes (runtime/serve/schemas/schema_writer.h), escapes included.
mend(json_schema_converter.cc "the patterns of strings"
  "RegexExpression(*spec.pattern, /*json_string=*/true)" "RegexExpression(*spec.pattern, /*json_string=*/false)")

# Schemas are told apart by all that they say: members may have the names of annotations, or quotes in their names.
mend(json_schema_converter.cc "the annotations in keys of schemas"
  "if (kSkippedKeys.count(kv.first) == 0) {" "if (true) {")
mend(json_schema_converter.cc "the names in keys of schemas"
  [[result += "\"" + key + "\":" + ComputeCacheKey(value);]]
  [[result += picojson::value(key).serialize() + ":" + ComputeCacheKey(value);]])

# Compiling can be stopped: StopPoint() of grammar.cpp throws.
set(task "auto add_adaptive_token_mask = [&](const ParserState& state, bool is_root_rule) {\n")
mend(grammar_compiler.cc "the tasks of compiling" "${task}" "${task}    StopPoint();\n")
set(token "      const auto& token = sorted_decoded_vocab[i].second;\n      // This optimization")
mend(grammar_compiler.cc "the tokens of a task" "${token}" "      StopPoint();\n${token}")

foreach(file ${mended})
  file(CONFIGURE OUTPUT ${PROJECT_BINARY_DIR}/xgrammar/${file} CONTENT "${text_of_${file}}" @ONLY)
  list(REMOVE_ITEM sources ${xgrammar_home}/cpp/${file})
  list(APPEND sources ${PROJECT_BINARY_DIR}/xgrammar/${file})
endforeach()

add_library(xgrammar STATIC ${sources})
set_target_properties(xgrammar PROPERTIES CXX_STANDARD 17)
kt_unity(xgrammar)
set_source_files_properties(${PROJECT_BINARY_DIR}/xgrammar/json_schema_converter.cc PROPERTIES
  SKIP_UNITY_BUILD_INCLUSION ON)  # has names of its own twice
target_include_directories(xgrammar SYSTEM
  PUBLIC ${xgrammar_home}/include ${xgrammar_home}/3rdparty/dlpack/include
  PRIVATE ${xgrammar_home}/3rdparty/picojson ${xgrammar_home}/cpp)
set_source_files_properties(${PROJECT_BINARY_DIR}/xgrammar/grammar_compiler.cc PROPERTIES
  COMPILE_OPTIONS "-include;${CMAKE_CURRENT_LIST_DIR}/xgrammar_hooks.h")
# Its messages go through grammar.cpp, which makes them answers.
target_compile_definitions(xgrammar
  PUBLIC XGRAMMAR_ENABLE_CPPTRACE=0 XGRAMMAR_ENABLE_INTERNAL_CHECK=0
  PRIVATE XGRAMMAR_LOG_CUSTOMIZE=1)
target_compile_options(xgrammar PRIVATE -w)
if(KTMPI_SANITIZE MATCHES fuzzer)  # what is fuzzed is ours, and clang takes long for the rest
  target_compile_options(xgrammar PRIVATE -fno-sanitize=all)
endif()
target_link_libraries(xgrammar PRIVATE Threads::Threads)

# xgrammar's C++ core, a static library from the sources that scripts/setup unpacks. Its own CMake file wants its Python
# binding, -flto and -Werror; what it would compile is one list of files. Headers are used in runtime/text/grammar.cpp
# and, that of its automata, in runtime/text/stop_automaton.cpp.
set(xgrammar_home ${PROJECT_SOURCE_DIR}/build/deps/xgrammar)
if(NOT EXISTS ${xgrammar_home}/cpp/grammar_compiler.cc)
  message(FATAL_ERROR "${xgrammar_home}: xgrammar's sources are not there; run scripts/setup build")
endif()

file(GLOB sources ${xgrammar_home}/cpp/*.cc ${xgrammar_home}/cpp/support/*.cc ${xgrammar_home}/cpp/converter_ext/*.cc)

# Three corrections to xgrammar 0.2.8.
function(mend file what from to)
  set(mended ${PROJECT_BINARY_DIR}/xgrammar/${file})
  if(mended IN_LIST sources)
    file(READ ${mended} text)
  else()
    file(READ ${xgrammar_home}/cpp/${file} text)
    list(REMOVE_ITEM sources ${xgrammar_home}/cpp/${file})
    list(APPEND sources ${mended})
    set(sources ${sources} PARENT_SCOPE)
  endif()
  string(REPLACE "${from}" "${to}" new "${text}")
  if(new STREQUAL text)
    message(FATAL_ERROR "xgrammar's ${file}: ${what}: no longer where this file mends them")
  endif()
  file(CONFIGURE OUTPUT ${mended} CONTENT "${new}" @ONLY)
endfunction()

# Control characters in strings with minLength or maxLength are no JSON.
set(any_but_ends "{{'\"', '\"'}, {'\\\\', '\\\\'}, {'\\r', '\\r'}, {'\\n', '\\n'}}, true);")
mend(json_schema_converter.cc "the characters of bounded strings" "AddCharacterClass(${any_but_ends}"
  "AddCharacterClass({{0, 0x1f}, {'\"', '\"'}, {'\\\\', '\\\\'}}, true);")

# Qwen's values stand on lines of their own: other white space around them belongs to a string.
set(value "      elements.push_back(RuleRef(value_rule_id));\n")
set(space "      elements.push_back(WhitespaceExpression());\n")
set(line "      elements.push_back(json_format_ == JSONFormat::kQwenXML ? ByteString(\"\\n\") : WhitespaceExpression());\n")
mend(json_schema_converter.cc "the ends of Qwen's values" "${space}${value}${space}" "${line}${value}${line}")

# Compiling can be stopped: StopPoint() of grammar.cpp throws.
set(task "auto add_adaptive_token_mask = [&](const ParserState& state, bool is_root_rule) {\n")
mend(grammar_compiler.cc "the tasks of compiling" "${task}" "${task}    StopPoint();\n")
set(token "      const auto& token = sorted_decoded_vocab[i].second;\n      // This optimization")
mend(grammar_compiler.cc "the tokens of a task" "${token}" "      StopPoint();\n${token}")

add_library(xgrammar STATIC ${sources})
set_target_properties(xgrammar PROPERTIES CXX_STANDARD 17)
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

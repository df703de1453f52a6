# xgrammar's C++ core, a static library from the sources that scripts/setup unpacks. Its own CMake file wants its Python
# binding, -flto and -Werror; what it would compile is one list of files. Headers are used in runtime/text/grammar.cpp.
set(xgrammar_home ${PROJECT_SOURCE_DIR}/build/deps/xgrammar)
if(NOT EXISTS ${xgrammar_home}/cpp/grammar_compiler.cc)
  message(FATAL_ERROR "${xgrammar_home}: xgrammar's sources are not there; run scripts/setup build")
endif()

file(GLOB sources ${xgrammar_home}/cpp/*.cc ${xgrammar_home}/cpp/support/*.cc ${xgrammar_home}/cpp/converter_ext/*.cc)

# Two corrections to xgrammar 0.2.8.
set(converter ${xgrammar_home}/cpp/json_schema_converter.cc)
file(READ ${converter} mended)
function(mend what from to)
  string(REPLACE "${from}" "${to}" text "${mended}")
  if(text STREQUAL mended)
    message(FATAL_ERROR "${converter}: ${what}: no longer where this file mends them")
  endif()
  set(mended "${text}" PARENT_SCOPE)
endfunction()

# Control characters in strings with minLength or maxLength are no JSON.
set(any_but_ends "{{'\"', '\"'}, {'\\\\', '\\\\'}, {'\\r', '\\r'}, {'\\n', '\\n'}}, true);")
mend("the characters of bounded strings" "AddCharacterClass(${any_but_ends}"
  "AddCharacterClass({{0, 0x1f}, {'\"', '\"'}, {'\\\\', '\\\\'}}, true);")

# Qwen's values stand on lines of their own: other white space around them belongs to a string.
set(value "      elements.push_back(RuleRef(value_rule_id));\n")
set(space "      elements.push_back(WhitespaceExpression());\n")
set(line "      elements.push_back(json_format_ == JSONFormat::kQwenXML ? ByteString(\"\\n\") : WhitespaceExpression());\n")
mend("the ends of Qwen's values" "${space}${value}${space}" "${line}${value}${line}")

file(CONFIGURE OUTPUT ${PROJECT_BINARY_DIR}/xgrammar/json_schema_converter.cc CONTENT "${mended}" @ONLY)
list(REMOVE_ITEM sources ${converter})

add_library(xgrammar STATIC ${sources} ${PROJECT_BINARY_DIR}/xgrammar/json_schema_converter.cc)
set_target_properties(xgrammar PROPERTIES CXX_STANDARD 17)
target_include_directories(xgrammar SYSTEM
  PUBLIC ${xgrammar_home}/include ${xgrammar_home}/3rdparty/dlpack/include
  PRIVATE ${xgrammar_home}/3rdparty/picojson ${xgrammar_home}/cpp)
# Its messages go through grammar.cpp, which makes them answers.
target_compile_definitions(xgrammar
  PUBLIC XGRAMMAR_ENABLE_CPPTRACE=0 XGRAMMAR_ENABLE_INTERNAL_CHECK=0
  PRIVATE XGRAMMAR_LOG_CUSTOMIZE=1)
target_compile_options(xgrammar PRIVATE -w)
target_link_libraries(xgrammar PRIVATE Threads::Threads)

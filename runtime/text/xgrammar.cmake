# xgrammar's C++ core, a static library from the sources that scripts/setup unpacks. Its own CMake file wants its Python
# binding, -flto and -Werror; what it would compile is one list of files. Headers are used in runtime/text/grammar.cpp.
set(xgrammar_home ${PROJECT_SOURCE_DIR}/build/deps/xgrammar)
if(NOT EXISTS ${xgrammar_home}/cpp/grammar_compiler.cc)
  message(FATAL_ERROR "${xgrammar_home}: xgrammar's sources are not there; run scripts/setup build")
endif()

file(GLOB sources ${xgrammar_home}/cpp/*.cc ${xgrammar_home}/cpp/support/*.cc ${xgrammar_home}/cpp/converter_ext/*.cc)

# xgrammar 0.2.8 lets control characters into strings with minLength or maxLength, which is no JSON.
set(converter ${xgrammar_home}/cpp/json_schema_converter.cc)
set(any_but_ends "{{'\"', '\"'}, {'\\\\', '\\\\'}, {'\\r', '\\r'}, {'\\n', '\\n'}}, true);")
file(READ ${converter} text)
string(REPLACE "AddCharacterClass(${any_but_ends}"
  "AddCharacterClass({{0, 0x1f}, {'\"', '\"'}, {'\\\\', '\\\\'}}, true);" mended "${text}")
if(mended STREQUAL text)
  message(FATAL_ERROR "${converter}: the characters of bounded strings are no longer where this file mends them")
endif()
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

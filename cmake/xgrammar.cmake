# xgrammar's C++ core, a static library from the sources that scripts/setup unpacks. Its own CMake file wants its Python
# binding, -flto and -Werror; what it would compile is one list of files. Headers are used in runtime/text/grammar.cpp.
set(xgrammar_home ${PROJECT_SOURCE_DIR}/build/deps/xgrammar)
if(NOT EXISTS ${xgrammar_home}/cpp/grammar_compiler.cc)
  message(FATAL_ERROR "${xgrammar_home}: xgrammar's sources are not there; run scripts/setup build")
endif()

file(GLOB sources ${xgrammar_home}/cpp/*.cc ${xgrammar_home}/cpp/support/*.cc ${xgrammar_home}/cpp/converter_ext/*.cc)
add_library(xgrammar STATIC ${sources})
set_target_properties(xgrammar PROPERTIES CXX_STANDARD 17)
target_include_directories(xgrammar SYSTEM
  PUBLIC ${xgrammar_home}/include ${xgrammar_home}/3rdparty/dlpack/include
  PRIVATE ${xgrammar_home}/3rdparty/picojson)
# Its messages go through grammar.cpp, which makes them answers.
target_compile_definitions(xgrammar
  PUBLIC XGRAMMAR_ENABLE_CPPTRACE=0 XGRAMMAR_ENABLE_INTERNAL_CHECK=0
  PRIVATE XGRAMMAR_LOG_CUSTOMIZE=1)
target_compile_options(xgrammar PRIVATE -w)
target_link_libraries(xgrammar PRIVATE Threads::Threads)

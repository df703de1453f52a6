# index.html becomes a source file of kt_serve: the page is part of the program.
set(page_from ${CMAKE_CURRENT_LIST_DIR}/index.html)
set(page_to ${CMAKE_CURRENT_BINARY_DIR}/serve_page_text.cpp)
add_custom_command(
  OUTPUT ${page_to}
  COMMAND ${CMAKE_COMMAND} -DFROM=${page_from} -DTO=${page_to} -P ${CMAKE_CURRENT_LIST_DIR}/embed.cmake
  DEPENDS ${page_from} ${CMAKE_CURRENT_LIST_DIR}/embed.cmake)
target_sources(kt_serve PRIVATE ${page_to})

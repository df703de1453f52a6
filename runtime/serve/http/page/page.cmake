# The page becomes a source file of kt_serve: index.html, what it loads of this folder, and the libraries that it
# renders answers with. KTMPI_JAVASCRIPT is a folder that has them as Debian's packages lay them out.
set(KTMPI_JAVASCRIPT /usr/share/javascript CACHE PATH "Where markdown-it, highlight.js and katex lie")
set(page_libraries
  markdown-it/markdown-it.js
  highlight.js/highlight.min.js
  highlight.js/styles/a11y-dark.css
  highlight.js/styles/a11y-light.css
  katex/katex.min.css
  katex/katex.min.js)
file(GLOB page_fonts RELATIVE ${KTMPI_JAVASCRIPT} ${KTMPI_JAVASCRIPT}/katex/fonts/*.woff2)
foreach(library ${page_libraries})
  if(NOT EXISTS ${KTMPI_JAVASCRIPT}/${library})
    message(FATAL_ERROR "${KTMPI_JAVASCRIPT}/${library} is not there, of which the page at / is made; "
                        "try: scripts/setup build")
  endif()
endforeach()

file(GLOB page_own RELATIVE ${CMAKE_CURRENT_LIST_DIR} CONFIGURE_DEPENDS
     ${CMAKE_CURRENT_LIST_DIR}/*.js ${CMAKE_CURRENT_LIST_DIR}/*.css)
set(page_names)
set(page_sources ${CMAKE_CURRENT_LIST_DIR}/index.html ${CMAKE_CURRENT_LIST_DIR}/embed.py)
foreach(name ${page_own})
  list(APPEND page_names ${name}=${CMAKE_CURRENT_LIST_DIR}/${name})
  list(APPEND page_sources ${CMAKE_CURRENT_LIST_DIR}/${name})
endforeach()
foreach(name ${page_libraries} ${page_fonts})
  list(APPEND page_names ${name}=${KTMPI_JAVASCRIPT}/${name})
  list(APPEND page_sources ${KTMPI_JAVASCRIPT}/${name})
endforeach()

set(page_to ${CMAKE_CURRENT_BINARY_DIR}/serve_page_files.cpp)
add_custom_command(
  OUTPUT ${page_to}
  BYPRODUCTS ${page_to}.bin
  COMMAND ${KTMPI_PYTHON} ${CMAKE_CURRENT_LIST_DIR}/embed.py ${page_to} ${CMAKE_CURRENT_LIST_DIR}/index.html
          ${page_names}
  DEPENDS ${page_sources})
target_sources(kt_serve PRIVATE ${page_to})

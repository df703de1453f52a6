# docs/openapi.yaml becomes a source file of kt_serve, as JSON: the server tells its own interface, and its version.
set(openapi_from ${PROJECT_SOURCE_DIR}/docs/openapi.yaml)
set(openapi_to ${CMAKE_CURRENT_BINARY_DIR}/serve_openapi_json.cpp)
add_custom_command(
  OUTPUT ${openapi_to}
  COMMAND ${KTMPI_PYTHON} ${CMAKE_CURRENT_LIST_DIR}/openapi.py ${openapi_from} ${PROJECT_VERSION} ${openapi_to}
  DEPENDS ${openapi_from} ${CMAKE_CURRENT_LIST_DIR}/openapi.py)
target_sources(kt_serve PRIVATE ${openapi_to})

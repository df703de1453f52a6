# The .deb that scripts/package makes of what is installed.
set(CPACK_GENERATOR DEB)
set(CPACK_PACKAGE_NAME ktmpi)
set(CPACK_PACKAGE_DESCRIPTION_SUMMARY "Server of large mixture-of-experts language models")
set(CPACK_PACKAGE_DESCRIPTION "ktmpi serves large mixture-of-experts language models over HTTP, on CPUs.
Its MPI ranks share one process, one machine or a cluster: expert ranks keep
the routed experts in their own memory and compute them there.")
if(NOT CPACK_PACKAGE_CONTACT)
  set(CPACK_PACKAGE_CONTACT "ktmpi <root@localhost>")
endif()
set(CPACK_PACKAGING_INSTALL_PREFIX /usr)
set(CPACK_STRIP_FILES ON)
set(CPACK_INSTALL_DEFAULT_DIRECTORY_PERMISSIONS
    OWNER_READ OWNER_WRITE OWNER_EXECUTE GROUP_READ GROUP_EXECUTE WORLD_READ WORLD_EXECUTE)

set(CPACK_DEBIAN_FILE_NAME DEB-DEFAULT)
set(CPACK_DEBIAN_PACKAGE_RELEASE 1)
set(CPACK_DEBIAN_PACKAGE_SECTION science)
set(CPACK_DEBIAN_PACKAGE_SHLIBDEPS ON)
# mpirun starts ranks, and jinja2 renders chat templates in the embedded interpreter.
set(CPACK_DEBIAN_PACKAGE_DEPENDS "openmpi-bin, python3-jinja2")
set(CPACK_DEBIAN_PACKAGE_CONTROL_STRICT_PERMISSION ON)
foreach(script postinst prerm postrm)
  list(APPEND CPACK_DEBIAN_PACKAGE_CONTROL_EXTRA ${CMAKE_CURRENT_LIST_DIR}/${script})
endforeach()
set(CPACK_PRE_BUILD_SCRIPTS ${CMAKE_CURRENT_LIST_DIR}/before_build.cmake)
include(CPack)

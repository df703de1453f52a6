# What `cmake --install` lays down. The manual page and the completions are printed by the program that is installed.
include(GNUInstallDirs)
set(KTMPI_ZSH_COMPLETIONS ${CMAKE_INSTALL_DATADIR}/zsh/site-functions CACHE STRING "Where zsh looks for completions")
# Libraries that the linker was told of, as an MPI below /opt, are looked for where they were found.
set(CMAKE_INSTALL_RPATH_USE_LINK_PATH ON CACHE BOOL "Keep the folders of libraries in the installed program")

set(share ${CMAKE_INSTALL_DATADIR}/ktmpi)
set(printed ${PROJECT_BINARY_DIR}/printed)

install(TARGETS ktmpi RUNTIME)
# KTransformers' name for it: `kt chat`, `kt version`. Links keep working wherever the prefix goes.
function(install_link name target folder)
  file(CREATE_LINK ${target} ${PROJECT_BINARY_DIR}/links/${name} SYMBOLIC)
  install(FILES ${PROJECT_BINARY_DIR}/links/${name} DESTINATION ${folder})
endfunction()
file(MAKE_DIRECTORY ${PROJECT_BINARY_DIR}/links)
install_link(kt ktmpi ${CMAKE_INSTALL_BINDIR})
install_link(kt.1.gz ktmpi.1.gz ${CMAKE_INSTALL_MANDIR}/man1)
install_link(kt ktmpi ${CMAKE_INSTALL_DATADIR}/bash-completion/completions)
install_link(kt.fish ktmpi.fish ${CMAKE_INSTALL_DATADIR}/fish/vendor_completions.d)

install(CODE "
  function(print_to file)
    execute_process(COMMAND \"$<TARGET_FILE:ktmpi>\" \${ARGN} OUTPUT_FILE ${printed}/\${file} RESULT_VARIABLE code)
    if(code)
      message(FATAL_ERROR \"ktmpi \${ARGN}: ended with \${code}\")
    endif()
  endfunction()
  file(MAKE_DIRECTORY ${printed})
  print_to(ktmpi.1 man)
  execute_process(COMMAND gzip -9nf ${printed}/ktmpi.1 COMMAND_ERROR_IS_FATAL ANY)
  print_to(ktmpi completion bash)
  print_to(_ktmpi completion zsh)
  print_to(ktmpi.fish completion fish)

  file(READ ${PROJECT_SOURCE_DIR}/scripts/systemd/ktmpi.service unit)
  string(REPLACE /usr/bin/mpirun ${MPIEXEC_EXECUTABLE} unit \"\${unit}\")
  string(REPLACE /usr/bin/ktmpi \${CMAKE_INSTALL_PREFIX}/${CMAKE_INSTALL_BINDIR}/ktmpi unit \"\${unit}\")
  string(REPLACE /usr/share/ \${CMAKE_INSTALL_PREFIX}/${CMAKE_INSTALL_DATADIR}/ unit \"\${unit}\")
  file(WRITE ${printed}/ktmpi.service \"\${unit}\")
")
install(FILES ${printed}/ktmpi.1.gz DESTINATION ${CMAKE_INSTALL_MANDIR}/man1)
install(FILES ${printed}/ktmpi DESTINATION ${CMAKE_INSTALL_DATADIR}/bash-completion/completions)
install(FILES ${printed}/_ktmpi DESTINATION ${KTMPI_ZSH_COMPLETIONS})
install(FILES ${printed}/ktmpi.fish DESTINATION ${CMAKE_INSTALL_DATADIR}/fish/vendor_completions.d)

install(FILES ${printed}/ktmpi.service DESTINATION lib/systemd/system)
install(FILES scripts/systemd/ktmpi.conf DESTINATION lib/sysusers.d)
install(FILES scripts/systemd/ktmpi.yaml scripts/systemd/ktmpi.env DESTINATION ${share}/systemd)

install(DIRECTORY configs DESTINATION ${share})
install(FILES scripts/mpi_environment.sh DESTINATION ${share})
install(PROGRAMS scripts/slurm/ktmpi.sbatch DESTINATION ${share}/slurm)

install(FILES README.md CHANGELOG.md LICENSE scripts/packaging/copyright DESTINATION ${CMAKE_INSTALL_DOCDIR})
install(DIRECTORY docs DESTINATION ${CMAKE_INSTALL_DOCDIR})

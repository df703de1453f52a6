# CPack runs this on the tree that becomes the package: what Debian wants otherwise than other systems.
set(doc ${CPACK_TEMPORARY_DIRECTORY}/usr/share/doc/ktmpi)
string(TIMESTAMP date "%a, %d %b %Y %H:%M:%S +0000" UTC)  # SOURCE_DATE_EPOCH where it is set
file(WRITE ${doc}/changelog.Debian
"ktmpi (${CPACK_PACKAGE_VERSION}-${CPACK_DEBIAN_PACKAGE_RELEASE}) unstable; urgency=medium

  * See changelog.gz.

 -- ${CPACK_PACKAGE_CONTACT}  ${date}
")
file(RENAME ${doc}/CHANGELOG.md ${doc}/changelog)
execute_process(COMMAND gzip -9nf ${doc}/changelog ${doc}/changelog.Debian COMMAND_ERROR_IS_FATAL ANY)
file(REMOVE ${doc}/LICENSE)  # is in /usr/share/common-licenses

# cmake -DFROM=index.html -DTO=x.cpp -P embed.cmake: writes kt::page_text(), which gives the file's text.
file(READ ${FROM} text)
file(WRITE ${TO} "#include \"runtime/serve/http/page.h\"\n
std::string_view kt::page_text() { return R\"page(${text})page\"; }\n")

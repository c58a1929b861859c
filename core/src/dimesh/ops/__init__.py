"""Operations on a mesh, with typed results. Front ends (the command line, HTTP, pages) only print what is returned here."""

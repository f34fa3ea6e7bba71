/*
 * found.h - what segments there are, for Python: more than --list shows.
 */
#ifndef LG_READER_FOUND_H
#define LG_READER_FOUND_H

#include <stdio.h>

/* An array of objects, live ones first: pid, alive, state ("running", "exited",
 * "killed", "off"), app, server, worker, ppid, uid, python, agent,
 * started_unix_ms, file; and "errors", in words, of those that could not be
 * read. `dir` NULL: /dev/shm and the containers that can be seen. */
void lg_found_json(const char *dir, FILE *out);

#endif

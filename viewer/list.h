/*
 * list.h - what --list prints: workers that can be watched, live and dead.
 */
#ifndef LG_LIST_H
#define LG_LIST_H

#include <stdio.h>

#include "find.h"

/* One line each: PID STATE UP APP AGENT FILE. */
void lg_list_print(const struct lg_sources *sources, FILE *out);
/* The same as one JSON object, with what could not be read. */
void lg_list_json(const struct lg_sources *sources, const struct lg_problems *problems, FILE *out);

#endif

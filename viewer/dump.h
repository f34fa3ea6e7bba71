/*
 * dump.h - what loopguard-dump writes: all that one segment holds.
 *
 * One worker in `top`, refreshed. Each writer takes what is whole; what is
 * not is lg_dump_report()'s. Errors stay in the FILE.
 */
#ifndef LG_DUMP_H
#define LG_DUMP_H

#include <stdio.h>

#include "model.h"

#define LG_DUMP_SCHEMA "loopguard-dump/1"

/* For a person: summary, what ran at death, endpoints, stacks, events. */
void lg_dump_text(struct lg_top *top, FILE *out);
/* For scripts: everything, every window, every record. */
void lg_dump_json(struct lg_top *top, FILE *out);
/* The same without the workers, in parts, each an object of its own: for
 * readers that do not want megabytes at once. */
enum lg_dump_part {
    LG_DUMP_FACTS,                      /* process, config, counters, tables, damage */
    LG_DUMP_HISTOGRAMS,
    LG_DUMP_HISTORY,
    LG_DUMP_STACKS,
    LG_DUMP_RECORDS,
    LG_DUMP_PARTS
};
void lg_dump_json_part(struct lg_top *top, enum lg_dump_part part, FILE *out);

/* Says on stderr what could not be read, with byte offset and count. */
void lg_dump_report(const struct lg_top *top, const char *program);
/* Name of a section kind: "ENDPOINTS". */
const char *lg_dump_section(uint32_t kind);

#endif

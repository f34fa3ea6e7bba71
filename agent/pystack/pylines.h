/*
 * pylines.h - which source line an instruction belongs to.
 *
 * CPython stores that table in three forms; this decodes them from bytes that
 * were copied out of the interpreter, a chunk at a time, because a table can
 * be larger than a fixed buffer. Pure: no Python, no allocation, any thread.
 * The bytes may be garbage; the answer is then wrong but never out of bounds.
 *
 *   LNOTAB     3.9    pairs (instruction bytes, line change)
 *   LINETABLE  3.10   pairs (range bytes, line change; -128 = no line)
 *   LOCATIONS  3.11+  entries of a head with bit 7 set and varints
 *
 * Source: Objects/lnotab_notes.txt of 3.9 and 3.10, Objects/locations.md of
 * 3.11.
 */
#ifndef LG_PYLINES_H
#define LG_PYLINES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum lg_pylines_form {
    LG_PYLINES_LNOTAB,
    LG_PYLINES_LINETABLE,
    LG_PYLINES_LOCATIONS,
};

/* At least this many bytes are wanted by each feed but the last. */
#define LG_PYLINES_CHUNK_MIN 128

struct lg_pylines {             /* owned by the caller, set by _start() */
    enum lg_pylines_form form;
    bool done;                  /* `found` is the answer */
    int32_t found;              /* the line; 0: the instruction has none */
    int64_t offset;             /* of the instruction, in bytes */
    int64_t end;                /* of the entries seen so far, in bytes */
    int64_t line;               /* after the entries seen so far */
};

void lg_pylines_start(struct lg_pylines *lines, enum lg_pylines_form form, int32_t first_line,
                      int32_t offset);

/* Feeds the next bytes of the table; `last` when none follow. Returns how many
 * were used: the rest begins the next feed. After the last feed `done` is
 * set. */
size_t lg_pylines_feed(struct lg_pylines *lines, const uint8_t *bytes, size_t size_bytes,
                       bool last);

#endif

/*
 * ledger.h - the workers of one application, added up again and again.
 *
 * A worker's counters begin at zero when it starts; the application's must not.
 * So the ledger keeps what ended workers had counted. It holds the file of each
 * worker that it has seen open: one that ends cleanly unlinks its segment, and
 * its last numbers are read from there.
 *
 * Any worker may answer for all, each with a ledger of its own, so what was
 * kept is shared: in a small file beside the segments (shared.h). Without it
 * each ledger would remember other workers, and a scraper that meets now one,
 * now another would take every difference for a restart.
 *
 * One thread at a time. No signal, no mapping, no code of Python.
 */
#ifndef LG_READER_LEDGER_H
#define LG_READER_LEDGER_H

#include <stdbool.h>
#include <stdint.h>

#include "families.h"

struct lg_ledger;

/* `app`: the application by its name, or NULL for that of this process: then
 * it is (uid, parent, app), and known once a loop has run here. `dir` NULL:
 * /dev/shm. 0 or -ENOMEM. */
int lg_ledger_new(const char *app, const char *dir, struct lg_ledger **out);
void lg_ledger_free(struct lg_ledger *ledger);

/* Looks for workers, reads them all, takes leave of the dead. 0 or -ENOMEM; a
 * segment that cannot be read is left out and counted. */
int lg_ledger_update(struct lg_ledger *ledger);

/* For the last moment of a worker: keeps its own counters for those who remain. */
int lg_ledger_retire_self(struct lg_ledger *ledger);

/* The sums of the last update. */
const struct lg_families *lg_ledger_total(const struct lg_ledger *ledger);
/* Segments of the application that could not be read, last time. */
uint32_t lg_ledger_unread(const struct lg_ledger *ledger);

#endif

/*
 * shared.h - what the ended workers of an application had counted, kept in a
 * file that all ledgers of the application share.
 *
 * "loopguard-sums.<pid namespace>.<parent>.<its start>.<app>" beside the
 * segments, mode 0600, written under a lock and replaced as a whole. It names
 * the segments that it has taken in by their nonce, so none is counted twice,
 * whoever saw it die. Only a file of our own user is believed, and it is
 * checked as any other bytes; what cannot be read or written is kept in memory
 * alone. Files of parents that are no more are removed on the way.
 *
 * One thread. begin, any number of bury, end.
 */
#ifndef LG_READER_SHARED_H
#define LG_READER_SHARED_H

#include <stdbool.h>
#include <stdint.h>

#include "families.h"

struct lg_shared {
    struct lg_families sums;
    uint64_t *nonce;                    /* of the segments in `sums` */
    uint32_t nonce_count;
    uint32_t nonce_room;
    uint64_t generation;                /* of the file that `sums` came from */
    char path[320];                     /* "" = memory alone */
    int lock;                           /* descriptor, -1 = not held */
    bool changed;
    bool alone;                         /* could not be written: memory alone */
};

void lg_shared_init(struct lg_shared *shared);
void lg_shared_free(struct lg_shared *shared);

/* Whose sums they are; another name than before begins with nothing. */
void lg_shared_name(struct lg_shared *shared, const char *dir, const struct lg_proc_info *self,
                    const char *app);

/* Takes the lock, for at most 20 ms, and reads what others have added. */
void lg_shared_begin(struct lg_shared *shared);
/* Whether burying is safe now: the lock is held, or there is nothing to share. */
bool lg_shared_ready(const struct lg_shared *shared);
bool lg_shared_knows(const struct lg_shared *shared, const struct lg_geometry *geo);
/* Adds a dead worker's image, once. 0 or -ENOMEM. */
int lg_shared_bury(struct lg_shared *shared, const struct lg_geometry *geo, const uint8_t *bytes);
/* Writes what was added, gives the lock back. */
void lg_shared_end(struct lg_shared *shared);

#endif

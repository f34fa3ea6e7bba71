/*
 * lg_liveness.h - is the writer of this segment alive? One function, one order
 * of questions, a table of cases in its test.
 */
#ifndef LG_LIVENESS_H
#define LG_LIVENESS_H

#include "lg_geometry.h"

enum lg_life {
    LG_ALIVE,
    LG_DEAD,                            /* ended; the segment is a post-mortem */
    LG_DEAD_REUSED,                     /* ended, and its pid is another process now */
};

/* `fd`: the reader's own read-only open of the segment file (or -1). `pid`:
 * as seen from here, 0 when it is not known here. Order: boot id differs =>
 * dead; a shared flock can be had => dead (only tried when magic is set or
 * the file is older than 60 s); same pid namespace: /proc says. EPERM = alive. */
enum lg_life lg_liveness(const struct lg_geometry *geo, int fd, int pid);

#endif

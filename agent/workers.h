/*
 * workers.h - the small number of a worker within its application: the lowest
 * that no live worker of it holds. Read-only on the others' files; start only.
 */
#ifndef LG_AGENT_WORKERS_H
#define LG_AGENT_WORKERS_H

#include <stdint.h>

/* `dir` NULL: /dev/shm. One application = same uid, parent and `app`. */
uint32_t lg_worker_slot(const char *dir, uint32_t uid, uint32_t ppid, const char *app);

#endif

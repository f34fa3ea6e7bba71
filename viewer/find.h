/*
 * find.h - from a pid, a name or a file to an open segment.
 *
 * Opens read-only, follows no symbolic link, sends no signal and changes
 * nothing. Whatever stands in the way comes back as a struct lg_problem.
 *
 * One thread. A source owns its descriptor until lg_source_close().
 */
#ifndef LG_FIND_H
#define LG_FIND_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "../common/lg_geometry.h"
#include "../common/lg_liveness.h"
#include "problem.h"

/* An open segment. */
struct lg_source {
    int fd;                             /* -1 = closed */
    pid_t pid;                          /* as seen from here; 0 = not known here */
    bool by_file;                       /* named by --file, not by pid */
    char path[320];                     /* as it was opened */
    char label[256];                    /* what messages call it: pid or file */
    dev_t dev;
    ino_t ino;
    uint64_t file_size;
    enum lg_life life;
    struct lg_geometry geo;
};

struct lg_sources {                     /* zero it to start */
    struct lg_source *list;
    size_t count;
    size_t room;
};

/* `dir`: --dir, or NULL for /dev/shm (the target's own, then ours).
 * All return 0 or a negative code (-errno, LG_E*) with `problem` filled. */

/* The segment of a running or ended process, by the order of steps in the
 * README: process, owner, roots, fd links, own /dev/shm, newest match. */
int lg_find_pid(pid_t pid, const char *dir, struct lg_source *out, struct lg_problem *problem);

/* A segment file, live, dead or copied. LG_ECORRUPT and friends as in
 * lg_geometry_check(). */
int lg_find_file(const char *path, struct lg_source *out, struct lg_problem *problem);

/* Every segment that can be seen: own /dev/shm (or `dir`), then the roots of
 * other processes. Sorted by pid. What stood in the way (permission, damage)
 * is added to `problems`; finding none is no problem here. */
void lg_find_all(const char *dir, struct lg_sources *out, struct lg_problems *problems);

/* The same for one folder of this mount namespace: cheap enough for a tick. */
void lg_find_dir(const char *dir, struct lg_sources *out, struct lg_problems *problems);

/* Keeps those whose command line or app contains `text`, without case. */
void lg_find_keep_name(struct lg_sources *sources, const char *text);

/* Number of applications among the live ones; an application is (uid, ppid,
 * app), a lone worker stands for itself. application_of: a number for each. */
size_t lg_find_applications(const struct lg_sources *sources, size_t *application_of);

void lg_source_close(struct lg_source *source);
void lg_sources_free(struct lg_sources *sources);

#endif

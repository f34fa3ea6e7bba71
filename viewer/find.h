/*
 * find.h - from a pid, a name or a file to an open segment.
 *
 * Opens read-only, follows no symbolic link, sends no signal and changes
 * nothing. Whatever stands in the way comes back as a struct lg_problem: one
 * row of the table of words, with the exit status that belongs to it.
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

/* Exit status of all viewer programs. */
enum lg_exit {
    LG_EXIT_OK = 0,
    LG_EXIT_ERROR = 1,                  /* error while running */
    LG_EXIT_USAGE = 2,
    LG_EXIT_NOTHING = 3,                /* nothing to watch */
    LG_EXIT_PERMISSION = 4,
    LG_EXIT_SEGMENT = 5,                /* not a readable segment */
};

#define LG_FOUND_CHILDREN 32

/* What is wrong, in words. "SUBJECT: TEXT", then the hint on a line of its
 * own when it is not "". `code` is one word for JSON. */
struct lg_problem {
    pid_t pid;                          /* 0 = not about a pid */
    const char *code;
    char subject[256];                  /* "41207", "worker.lg", or "" */
    char text[320];
    char hint[768];
    int exit_status;                    /* enum lg_exit */
    pid_t children[LG_FOUND_CHILDREN];  /* "parent of workers given" */
    size_t child_count;
};

struct lg_problems {                    /* zero it to start */
    struct lg_problem *list;
    size_t count;
    size_t room;
};

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

/* `dir`: --dir, or NULL for /dev/shm (the target's own, then ours). */
/* All return 0 or a negative code (-errno, LG_E*) with `problem` filled. */

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

/* Keeps those whose command line or app contains `text`, without case. */
void lg_find_keep_name(struct lg_sources *sources, const char *text);

/* Number of applications among the live ones; an application is (uid, ppid,
 * app), a lone worker stands for itself. application_of: a number for each. */
size_t lg_find_applications(const struct lg_sources *sources, size_t *application_of);

void lg_source_close(struct lg_source *source);
void lg_sources_free(struct lg_sources *sources);
void lg_problems_add(struct lg_problems *problems, const struct lg_problem *problem);
void lg_problems_free(struct lg_problems *problems);

/* "PROGRAM: SUBJECT: TEXT\nHINT\n" on stderr. */
void lg_problem_print(const char *program, const struct lg_problem *problem);

/* Fills a problem from a code of opening or checking (`subject` is copied). */
void lg_problem_from_code(struct lg_problem *problem, const char *subject, pid_t pid, int code,
                          const struct lg_geometry *geo, const struct lg_fault *fault);

#endif

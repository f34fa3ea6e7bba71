/*
 * problem.h - what stands in the way, in words, with its exit status.
 *
 * One row of the table of words for each case: "PROGRAM: SUBJECT: TEXT" and at
 * most one further line that says what to do. The same text stands in JSON
 * under "errors".
 */
#ifndef LG_PROBLEM_H
#define LG_PROBLEM_H

#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "../common/lg_geometry.h"

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

void lg_problems_add(struct lg_problems *problems, const struct lg_problem *problem);
void lg_problems_free(struct lg_problems *problems);

/* "PROGRAM: SUBJECT: TEXT\nHINT\n" on stderr. */
void lg_problem_print(const char *program, const struct lg_problem *problem);

/* Empties `problem` and sets what every row has. */
void lg_problem_set(struct lg_problem *problem, pid_t pid, const char *subject, const char *code,
                    int exit_status, const char *format, ...) __attribute__((format(printf, 6, 7)));
void lg_problem_hint(struct lg_problem *problem, const char *format, ...)
    __attribute__((format(printf, 2, 3)));

/* Fills a problem from a code of opening or checking. `page`: the bytes that
 * were checked (NULL without), for the words about foreign segments. */
void lg_problem_from_code(struct lg_problem *problem, pid_t pid, const char *subject, int code,
                          const uint8_t *page, size_t page_size, const struct lg_fault *fault);

#endif

/*
 * answer.h - what the answers of a wrapped application bear, by the rules of
 * that wrapper: the x-blocking headers, Server-Timing, the refusal of mode
 * "strict"; and which requests it lets through unmeasured.
 *
 * A wrapper without rules leaves every answer as it is. The application's own
 * message and its list of headers are never changed: what leaves is a copy.
 * Whatever fails in here, the application's answer goes out. Under the GIL.
 */
#ifndef LG_AGENT_ANSWER_H
#define LG_AGENT_ANSWER_H

#include <Python.h>

#include <stdbool.h>
#include <stdint.h>

struct lg_agent;
struct lg_owner;

/* Bits of lg_owner.answered: an answer passes several wrappers, and gets each
 * from the innermost that adds it. */
#define LG_ANSWER_HEADERS 1u
#define LG_ANSWER_TIMING 2u

/* A Python object, so that the collector sees what the rules hold. Made by
 * lg_answer_rules(), never changed after. */
struct lg_rules {
    PyObject_HEAD
    struct lg_agent *agent;
    bool headers;                       /* x-request-id, x-blocking-* */
    bool warning;                       /* x-loopguard-warning on the guilty */
    bool strict;                        /* 503 for the guilty */
    bool server_timing;
    bool answers;                       /* any of the above */
    bool marks;                         /* the id stands in scope["state"] */
    bool selects;                       /* some requests are not measured */
    uint64_t exact_lengths;             /* bit n: an exact path of n characters, 63 = or more */
    PyObject *exact;                    /* tuple of str */
    PyObject *prefixes;                 /* tuple of str */
    PyObject *filter;                   /* filter(scope) -> measured?, or NULL */
    PyObject *filter_failed;            /* filter_failed(exception), logs it */
    PyObject *switch_name;              /* bytes in lower case, or NULL */
    PyObject *refuse;                   /* see answers.py; gives a coroutine */
    PyObject *swallow; /* swallow() -> coroutine that does nothing */
};

/* From the dict of answers.py; new reference, or NULL with KeyError or
 * TypeError. None gives None: a wrapper without rules. */
PyObject *lg_answer_rules(struct lg_agent *agent, PyObject *dict);

/* Is this request to be measured? 1 or 0; -1 with an exception set when the
 * filter was interrupted by what ends a program. A filter that fails says 1. */
int lg_answer_wants(const struct lg_rules *rules, PyObject *scope);

/* Is its path, below root_path, one of those left alone? */
bool lg_answer_excludes(const struct lg_rules *rules, PyObject *scope);

/* Leaves the request's id in scope["state"]. */
void lg_answer_mark(const struct lg_owner *owner, PyObject *scope);

/* http.response.start passes. In `*message` (a new reference) what is to be
 * sent instead; NULL: the application's own. Returns NULL, or in mode "strict"
 * and for a guilty request the coroutine that answers in its stead. An
 * exception is set only when the application's own headers raised it. */
PyObject *lg_answer_start(const struct lg_rules *rules, struct lg_owner *owner, PyObject *send,
                          PyObject *own, PyObject **message);

/* "0a1b2c3d", as str. New reference. */
PyObject *lg_answer_id(const struct lg_owner *owner);

int lg_answer_add_types(PyObject *module, struct lg_agent *agent);

#endif

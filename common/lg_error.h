/*
 * lg_error.h - the error numbers of loopguard's own and their words.
 *
 * Functions return 0, -errno, or one of these. They lie below every errno.
 */
#ifndef LG_ERROR_H
#define LG_ERROR_H

/* X(name, number, text) */
#define LG_ERRORS(X) \
    X(LG_EFORMAT, -4001, "not a loopguard segment") \
    X(LG_EVERSION, -4002, "written in another layout version") \
    X(LG_EENDIAN, -4003, "written on another kind of machine") \
    X(LG_EEMPTY, -4004, "empty; the agent has not finished starting") \
    X(LG_ETRUNCATED, -4005, "cut short") \
    X(LG_ECORRUPT, -4006, "damaged") \
    X(LG_ENOTTMPFS, -4007, "the segment's directory is not a tmpfs") \
    X(LG_EOFF, -4008, "the agent is loaded but switched off") \
    X(LG_EGONE, -4009, "the process has ended") \
    X(LG_ENOAGENT, -4010, "the loopguard agent is not loaded in this process") \
    X(LG_ENOTPYTHON, -4011, "not a Python process") \
    X(LG_EREUSED, -4012, "this is now another process") \
    X(LG_EFULL, -4013, "the table is full")

enum lg_error {
#define LG_X(name, number, text) name = number,
    LG_ERRORS(LG_X)
#undef LG_X
};

/* Text for any code that a loopguard function returned: 0, -errno or LG_E*.
 * Static or thread-local storage, never NULL. */
const char *lg_strerror(int code);

#endif

#include "delete_queue.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "io.h"

enum { MAX_ENTRIES = 4096, LOCK_EVERY_MS = 50, WRITE_MS = 5000, MAX_PATH = 4096 };
#define MAX_BYTES (UINT64_C(64) << 20)

/// The directory of the queue, for messages and system calls.
static char queue_path[MAX_PATH];
static int queue_fd = -1;

static bool fail(struct CniError* error, const char* doing) {
  error->code = CNI_IO_FAILURE;
  text_set(&error->message, "queueing the DEL, as the agent does not answer: ", doing, " ", queue_path, ": ",
           strerror(errno));
  return false;
}

/// Makes a new name in `path` survive a crash.
static bool sync_directory(const char* path) {
  int fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  bool done = fd >= 0 && fsync(fd) == 0;
  if (fd >= 0) close(fd);
  return done;
}

/// mkdir -p of `queue_path`, each new directory durable.
static bool make_directories(void) {
  for (char* slash = queue_path; slash != NULL;) {
    char* parent_end = slash;
    slash = strchr(slash + 1, '/');
    if (slash != NULL) *slash = '\0';
    bool made = mkdir(queue_path, 0700) == 0;
    bool good = made || errno == EEXIST;
    if (made) {
      char kept = parent_end[parent_end == queue_path ? 1 : 0];
      parent_end[parent_end == queue_path ? 1 : 0] = '\0';
      good = sync_directory(queue_path);
      parent_end[parent_end == queue_path ? 1 : 0] = kept;
    }
    if (slash != NULL) *slash = '/';
    if (!good) return false;
  }
  return true;
}

bool delete_queue_lock(const char* state_dir, int64_t deadline_ms, struct CniError* error) {
  size_t length = strlen(state_dir);  // env.c has bounded it
  memcpy(queue_path, state_dir, length);
  strcpy(queue_path + length, "/delete-queue");
  const int flags = O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW;
  queue_fd = open(queue_path, flags);
  if (queue_fd < 0 && errno == ENOENT) {
    if (!make_directories()) return fail(error, "making the directory");
    queue_fd = open(queue_path, flags);
  }
  if (queue_fd < 0) return fail(error, "opening the directory");
  int lock = openat(queue_fd, "lock", O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
  if (lock < 0) return fail(error, "opening the lock file of");
  while (flock(lock, LOCK_SH | LOCK_NB) != 0) {
    if (errno != EWOULDBLOCK && errno != EINTR) return fail(error, "locking");
    // An agent has the lock for as long as it reads the directory; one that is stopped there reads it again later.
    if (now_ms() >= deadline_ms) break;
    sleep_for(LOCK_EVERY_MS, deadline_ms);
  }
  return true;
}

static bool ends_with(const char* name, const char* ending) {
  size_t length = strlen(name);
  size_t tail = strlen(ending);
  return length >= tail && strcmp(name + length - tail, ending) == 0;
}

/// Counts entries and their bytes, also those that a crash left unfinished. False with errno.
static bool measure(uint64_t* entries, uint64_t* bytes) {
  static union {
    struct dirent64 first;
    char space[8192];
  } listing;
  *entries = 0;
  *bytes = 0;
  for (;;) {
    ssize_t got = getdents64(queue_fd, &listing.first, sizeof listing);
    if (got < 0) return false;
    if (got == 0) return true;
    for (ssize_t at = 0; at < got;) {
      const struct dirent64* entry = (const struct dirent64*)(const void*)(listing.space + at);
      at += entry->d_reclen;
      struct stat about;
      if (!ends_with(entry->d_name, ".req") && !ends_with(entry->d_name, ".tmp")) continue;
      if (fstatat(queue_fd, entry->d_name, &about, AT_SYMLINK_NOFOLLOW) != 0) continue;  // another's, renamed by now
      *entries += 1;
      *bytes += (uint64_t)about.st_size;
    }
  }
}

/// `{seconds}.{nanoseconds}-{pid}`: unique on a node, and sorted by age.
static void name_entry(struct Text* name, const char* ending) {
  struct timespec time;
  clock_gettime(CLOCK_REALTIME, &time);
  struct Text nanoseconds = {0};
  text_add_number(&nanoseconds, (uint64_t)time.tv_nsec);
  text_set(name, "");
  text_add_number(name, (uint64_t)time.tv_sec);
  text_add(name, ".");
  for (size_t i = nanoseconds.length; i < 9; i++) text_add(name, "0");
  text_add(name, nanoseconds.bytes);
  text_add(name, "-");
  text_add_number(name, (uint64_t)getpid());
  text_add(name, ending);
}

/// Writers under the shared lock do not see each other's unfinished entries in the count, so the caps may be passed by
/// as many entries as there are concurrent writers.
bool delete_queue_write(struct Request* request, struct CniError* error) {
  uint64_t entries;
  uint64_t bytes;
  if (!measure(&entries, &bytes)) return fail(error, "reading the directory");
  if (entries >= MAX_ENTRIES || bytes + request->length > MAX_BYTES) {
    error->code = CNI_TRY_AGAIN_LATER;
    text_set(&error->message, "the agent does not answer and the delete queue ", queue_path, " is full (");
    text_add_number(&error->message, entries);
    text_add(&error->message, " entries, ");
    text_add_number(&error->message, bytes);
    text_add(&error->message, " bytes)");
    return false;
  }
  struct Text unfinished;
  name_entry(&unfinished, ".tmp");
  struct Text finished = unfinished;
  memcpy(finished.bytes + finished.length - 4, ".req", 4);
  request_for_queue(request);
  int fd = openat(queue_fd, unfinished.bytes, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0600);
  if (fd < 0) return fail(error, "making an entry in");
  if (!write_all(fd, request->frame, request->length, now_ms() + WRITE_MS) || fsync(fd) != 0 ||
      renameat(queue_fd, unfinished.bytes, queue_fd, finished.bytes) != 0) {
    fail(error, "writing an entry in");
    unlinkat(queue_fd, unfinished.bytes, 0);
    return false;
  }
  close(fd);
  return fsync(queue_fd) == 0 || fail(error, "making an entry durable in");
}

-- A store as version 1 of its tables left it.
BEGIN TRANSACTION;
CREATE TABLE checkpoints (job TEXT NOT NULL, channel TEXT NOT NULL, tag TEXT NOT NULL, saved_at_ms INTEGER NOT NULL, PRIMARY KEY (job, channel));
INSERT INTO "checkpoints" VALUES('orders','forward','f1',1700000000000);
CREATE TABLE events (id INTEGER PRIMARY KEY, job TEXT NOT NULL, at_ms INTEGER NOT NULL, level TEXT NOT NULL, kind TEXT NOT NULL, text TEXT NOT NULL);
INSERT INTO "events" VALUES(1,'orders',1700000000000,'info','copied','the full copy is finished');
CREATE TABLE jobs (name TEXT PRIMARY KEY, topology TEXT NOT NULL, sites TEXT NOT NULL, created_ms INTEGER NOT NULL);
INSERT INTO "jobs" VALUES('orders','bidirectional','["east", "west"]',1700000000000);
CREATE TABLE reports (job TEXT PRIMARY KEY, report TEXT NOT NULL, at_ms INTEGER NOT NULL);
INSERT INTO "reports" VALUES('orders','{"a": 1}',1700000000000);
CREATE TABLE states (id INTEGER PRIMARY KEY, job TEXT NOT NULL, state TEXT NOT NULL, reason TEXT NOT NULL, at_ms INTEGER NOT NULL);
INSERT INTO "states" VALUES(1,'orders','synchronizing','',1700000000000);
CREATE INDEX states_of_job ON states (job, id);
CREATE INDEX events_of_job ON events (job, id);
COMMIT;
PRAGMA application_id = 1114198905;
PRAGMA user_version = 1;
